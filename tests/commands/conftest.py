"""One small training that all tests of this folder use, and the configs of the commands."""

from pathlib import Path
from typing import Any

import pytest

from anchorlab.cli.overrides import check_overrides
from anchorlab.commands import train as training
from tests.training.conftest import SMALL, forker, small, train

__all__ = ["CONFIGS", "composed", "forker", "run", "small", "synthetic_root", "train"]

CONFIGS = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("synthetic")


@pytest.fixture(scope="session")
def run(tmp_path_factory, synthetic_root) -> Path:
    """The folder of a run of two epochs, with 2k softmax scores and k = 3 on three levels."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    more = ["logger=csv", "callbacks.outcome.images=0", "preflight=none", "anchor.ratios=[0.5,1,2]"]
    training.train(check_overrides("train", CONFIGS, [*SMALL, f"data.root={synthetic_root}", *more]), folder)
    return folder


def composed(command: str, *overrides: str) -> dict[str, Any]:
    """The plain config of a root script, as its command line composes it."""
    return check_overrides(command, CONFIGS, overrides)
