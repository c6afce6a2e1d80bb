"""What holds for every test: the real data sets, one thread per worker so that workers do not fight, no deadline."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("anchorlab", settings(), deadline=None)  # 200 ms by default: a busy machine is no defect
settings.load_profile("anchorlab")

if os.environ.get("PYTEST_XDIST_WORKER"):
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """A training in this process flushes them to zero; Hypothesis, in a later test, needs them."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets that ANCHORLAB_DATA names (`bccd/BCCD`, `voc07`, `coco128`)."""
    root = os.environ.get("ANCHORLAB_DATA")
    if root and Path(root).is_dir():
        return Path(root)
    reason = "ANCHORLAB_DATA names no folder: tests on real images need one"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
