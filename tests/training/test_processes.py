"""Two real processes on an odd number of images: the figures of one, each image counted once, and no batch torn."""

import json
from pathlib import Path

import numpy as np
import pytest


def final(folder: Path) -> dict[str, float]:
    return json.loads((folder / "run.json").read_text())["figures"]["final"]


def test_two_processes_give_the_figures_of_one(small, train, tmp_path):
    settings = (*small, "data.reader.num_train=13", "data.val_batch_size=2", "trainer.epochs=1")
    one = train(*settings, "hydra.run.dir=one")
    processes = ("trainer=ddp_cpu", "trainer.threads=1", "trainer.epochs=1", "logger=wandb")
    two = train(*settings, *processes, "hydra.run.dir=two", WANDB_MODE="offline")
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    assert len(list((tmp_path / "two" / "wandb").glob("offline-run-*"))) == 1
    with np.load(tmp_path / "two" / "recall.npz") as saved:
        assert saved["index"].tolist() == list(range(7))
        assert len(set(saved["image_ids"].tolist())) == 7
    ours, theirs = final(tmp_path / "one"), final(tmp_path / "two")
    # The same global batches, the same sampled anchors: only the order of floating-point sums differs.
    assert theirs["objectness"] == pytest.approx(ours["objectness"], rel=0.02)  # a repeated image weighs in the mean
    for name in ("recall_100", "recall_1000", "AR_100", "AR_1000"):
        assert theirs[name] == pytest.approx(ours[name], abs=0.02), name


def test_batch_that_cannot_be_divided_is_refused(small, train):
    done = train(*small, "data.batch_size=5", "trainer=ddp_cpu", "trainer.threads=1")
    assert done.returncode == 2
    assert "data.batch_size=5" in done.stderr
    assert "Traceback" not in done.stderr
