"""A training that is killed at any of its writes and renames, and in the middle of them, goes on to the last bit.

`make test` tries some of the points, `make test-all` each.
"""

import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from anchorlab.cli.overrides import check_overrides
from anchorlab.installation import CONFIGS
from tests.training.conftest import forker, small
from tests.training.endings import assert_readable, assert_same_end
from tests.training.processes import Forker

__all__ = ["forker", "small"]

EVERY_WRITE = ("trainer.epochs=2", "trainer.checkpoint_every=0", "callbacks.outcome.images=2", "logger=csv")
SAMPLE = 6
BEFORE_A_CHECKPOINT = 21
"""A point at which the run has a row of metrics.csv, and half of its first checkpoint under a temporary name."""


@pytest.fixture(scope="module")
def config(small) -> dict[str, Any]:
    return check_overrides("train", CONFIGS, [*small, *EVERY_WRITE])


@pytest.fixture(scope="module")
def whole(config, forker: Forker, tmp_path_factory) -> tuple[Path, int]:
    """The folder of a run that nothing interrupted, and the number of its crash points."""
    folder = tmp_path_factory.mktemp("whole")
    done = forker.run(folder, config=config, crash_at=0)
    assert done.code == 0, done.err
    return folder, len(done.points)


def crash(forker: Forker, folder: Path, config: dict[str, Any], point: int) -> str:
    """Train, or go on, in `folder` until that point; what the point was."""
    crashed = forker.run(folder, config=config, crash_at=point)
    assert crashed.code == -signal.SIGKILL, crashed.err
    assert_readable(folder)
    return crashed.points[-1]


def goes_on_from_each(
    points: Iterable[int], forker: Forker, config: dict[str, Any], whole: Path, left: Path | None, place: Path
) -> None:
    """Crash at each point in a folder below `place`, new or a copy of what a crash `left`, and go on to the end."""
    for point in points:
        folder = place / f"point-{point}"
        if left is None:
            folder.mkdir()
        else:
            shutil.copytree(left, folder)
        what = crash(forker, folder, config, point)
        done = forker.run(folder, config=config)
        assert done.code == 0, f"{what}: {done.err}"
        assert_same_end(folder, whole)
        shutil.rmtree(folder)


@pytest.mark.long
def test_run_that_crashes_at_some_points(config, forker: Forker, whole, tmp_path):
    reference, count = whole
    goes_on_from_each(range(1, count + 1, count // SAMPLE), forker, config, reference, None, tmp_path)


@pytest.mark.slow
def test_run_that_crashes_at_every_point(config, forker: Forker, whole, tmp_path):
    reference, count = whole
    goes_on_from_each(range(1, count + 1), forker, config, reference, None, tmp_path)


@pytest.mark.slow
def test_run_that_crashes_again_at_every_point_of_starting_anew(config, forker: Forker, whole, tmp_path):
    """In a folder that a crash before the first checkpoint left, up to the new run's first checkpoint."""
    first = tmp_path / "first"
    first.mkdir()
    crash(forker, first, config, BEFORE_A_CHECKPOINT)
    assert (first / "metrics.csv").exists()
    assert not (first / "checkpoints" / "last.ckpt").exists()
    goes_on_from_each(range(1, BEFORE_A_CHECKPOINT + 5), forker, config, whole[0], first, tmp_path)


@pytest.mark.slow
def test_run_that_crashes_again_at_every_point_of_going_on(config, forker: Forker, whole, tmp_path):
    reference, count = whole
    first = tmp_path / "first"
    first.mkdir()
    crash(forker, first, config, count // 2)
    shutil.copytree(first, tmp_path / "counted")
    points = forker.run(tmp_path / "counted", config=config, crash_at=0).points
    goes_on_from_each(range(1, len(points) + 1), forker, config, reference, first, tmp_path)
