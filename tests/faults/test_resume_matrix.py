"""Where a run is stopped x how many processes it had x how many go on x its seed: the end is that of a whole run.

With as many processes to the last bit; with another number as close as runs of one and of two processes are.
"""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.training.conftest import forker, small
from tests.training.endings import assert_same_end, checkpoint, rows
from tests.training.processes import Forker

__all__ = ["forker", "small"]

RUN = ("trainer.epochs=2", "trainer.precision=32", "data.val_batch_size=2", "callbacks.outcome.images=0", "logger=csv")
STARTED = {1: "trainer=cpu", 2: "trainer=torchrun"}
QUICK = [("step", 1, 2, 0), ("step", 2, 1, 0), ("validation", 2, 2, 0), ("epoch", 1, 1, 42)]
ALL = [(at, a, b, seed) for at in ("step", "epoch", "validation") for a in (1, 2) for b in (1, 2) for seed in (0, 42)]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in QUICK)]


def run(forker: Forker, world: int, folder: Path, *arguments: str) -> int:
    """The exit code of the first of `world` processes."""
    words = (*arguments, STARTED[world], "trainer.threads=1", "trainer.log_every=1")
    ranks = [forker.start(folder, *words)] if world == 1 else forker.start_ranks(world, folder, *words)
    codes = [rank.wait() for rank in ranks]
    assert codes[1:] == [0] * (world - 1), ranks[-1].err
    return codes[0]


@pytest.fixture(scope="module")
def runs(small, forker, tmp_path_factory):
    """Folders of runs by number of processes, seed and the moment in which they were stopped; each is made once."""
    made: dict[tuple[int, int, str], Path] = {}

    def get(world: int, seed: int, moment: str = "") -> Path:
        key = (world, seed, moment)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("run")
            stop = ("+callbacks.breaking._target_=tests.training.breaking.Stop", f"+callbacks.breaking.moment={moment}")
            words = (*small, *RUN, *(stop if moment else ()), f"seed={seed}", "hydra.run.dir=run")
            assert run(forker, world, made[key], *words) == (143 if moment else 0)
        return made[key] / "run"

    return get


@pytest.mark.long
@pytest.mark.parametrize(("moment", "before", "after", "seed"), CASES)
def test_run_that_goes_on_ends_like_a_whole_one(moment, before, after, seed, forker: Forker, runs, tmp_path):
    shutil.copytree(runs(before, seed, moment), tmp_path / "run")
    assert run(forker, after, tmp_path, "resume=run") == 0
    if before == after:
        assert_same_end(tmp_path / "run", runs(after, seed))
    else:
        assert_close(tmp_path / "run", runs(1, seed))


def assert_close(folder: Path, whole: Path) -> None:
    """The same rows and weights up to the order of sums."""
    close = partial(pytest.approx, rel=1e-4, abs=1e-5)
    ours, theirs = rows(folder), rows(whole)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for name in ("train/loss", "train/box", "val/AR_1000", "val/recall_100"):
        assert [float(row[name] or 0) for row in ours] == close([float(row[name] or 0) for row in theirs]), name
    for name, value in checkpoint(whole)["state_dict"].items():
        torch.testing.assert_close(checkpoint(folder)["state_dict"][name], value, rtol=1e-3, atol=1e-4)


def test_seed_that_is_none_is_refused(forker: Forker, small, tmp_path):
    refused = forker.run(tmp_path, *small, "seed=null")
    assert refused.code == 2
    assert refused.err.startswith("error: seed=null is not possible")
    assert refused.err.count("\n") == 1
