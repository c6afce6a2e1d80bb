"""A sweep to compare: six settings, some of three seeds, one running, one failed, one with a hostile name."""

from pathlib import Path

import pytest

from tests.comparing.material import write_sweep


@pytest.fixture(scope="session")
def sweep(tmp_path_factory) -> Path:
    """Written once for all tests: they read it only."""
    return write_sweep(tmp_path_factory.mktemp("sweep"))
