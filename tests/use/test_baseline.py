"""torchvision's own RPN as the network of a run, as experiments/recipe trains it."""

import subprocess
import sys
from pathlib import Path

import pytest

from anchorlab.runs.record import read_run
from anchorlab.use.evaluation import evaluate
from tests.training.conftest import ROOT, SMALL
from tests.use.conftest import composed

SCRIPT = ROOT / "experiments" / "recipe" / "torchvision_rpn.py"
TINY = ("backbone=tiny", "anchor.sizes=[16,32,64]", "data.pad_to=32", "preflight=none", "logger=none")


@pytest.fixture(scope="module")
def baseline(tmp_path_factory, synthetic_root) -> Path:
    folder = tmp_path_factory.mktemp("baseline")
    words = [*SMALL, *TINY, f"data.root={synthetic_root}", "hydra.run.dir=run", "optimizer.lr=0.005"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_our_code_reads_the_checkpoint_and_finds_the_same(baseline, tmp_path):
    """What torchvision proposed in training, and what our network with its rules proposes from the same weights."""
    (found,) = evaluate(composed("evaluate", "pictures=0", "outcome=0", f"run={baseline}"), tmp_path)
    theirs = read_run(baseline).final
    assert theirs["recall_1000"] > 0.5
    for name in ("recall_10", "recall_100", "AR_10", "AR_100", "AR_1000"):
        assert found.figures[name] == pytest.approx(theirs[name], abs=1e-6), name
