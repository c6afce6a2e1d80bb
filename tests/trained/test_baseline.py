"""torchvision's own RPN as the network of a run, as experiments/recipe trains it."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anchorlab.commands.evaluate import evaluate
from anchorlab.runs.record import read_run
from tests.commands.conftest import composed
from tests.training.conftest import ROOT, SMALL

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
        assert found.metrics[name] == pytest.approx(theirs[name], abs=1e-6), name


def test_anchors_and_proposals_keep_their_precision_in_bf16():
    """torchvision's anchors take the type of the maps, and bf16 knows even numbers alone from 256 on."""
    make = runpy.run_path(str(SCRIPT))["torchvision_network"]
    network = make(composed("train", "backbone=tiny", "anchor=torchvision", "anchor.sizes=[16,32,64]", "head=sigmoid"))
    found = []
    network._rpn[0].anchor_generator.register_forward_hook(lambda module, given, anchors: found.extend(anchors))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (proposals,) = network.propose(network(torch.rand(1, 3, 320, 512)), [(320, 512)])
    (anchors,) = found
    assert (anchors.dtype, proposals.boxes.dtype) == (torch.float32, torch.float32)
    assert (anchors[anchors > 256] % 2 != 0).any()
