"""A Slurm for all tests of this folder, which stand outside `make test`: make test-all."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm import Slurm, missing
from tests.training.conftest import ROOT, small

__all__ = ["small"]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "WANDB_"))}
    own = {
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",  # ROOT: for callbacks of the tests
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",  # the nodes' names are known to Slurm alone
    }
    with Slurm(tmp_path_factory.mktemp("slurm"), kept | own) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty working folder with train.py."""
    (tmp_path / "train.py").symlink_to(ROOT / "train.py")
    return tmp_path
