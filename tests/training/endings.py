"""How a run ended, to be compared with another one's end to the last bit; and whether all that it wrote can be read."""

import csv
from pathlib import Path

import numpy as np
import torch

from anchorlab.runs.metrics import read_metrics
from anchorlab.runs.record import read_run

CLOCKS = ("train/images_per_s", "train/data_wait")


def rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without what a clock says; empty before its first row."""
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    with path.open() as file:
        return [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(file)]


def checkpoint(folder: Path, name: str = "last") -> dict:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_same_end(folder: Path, whole: Path) -> None:
    """Curves, weights, averages, optimizer, figures, match ranks and pictures, to the last bit."""
    assert rows(folder) == rows(whole)
    for name in ("last", "best"):
        ours, theirs = checkpoint(folder, name), checkpoint(whole, name)
        for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step"):
            assert_equal(ours.get(key), theirs.get(key))
    ours, theirs = read_run(folder), read_run(whole)
    assert ours.status == theirs.status == "finished"
    assert (ours.final, ours.best, ours.config_hash) == (theirs.final, theirs.best, theirs.config_hash)
    with np.load(folder / "recall.npz") as a, np.load(whole / "recall.npz") as b:
        assert all(np.array_equal(a[key], b[key]) for key in {*a.files, *b.files})
    figures = [path.name for path in (whole / "figures").iterdir()]
    assert all((folder / "figures" / name).read_bytes() == (whole / "figures" / name).read_bytes() for name in figures)
    assert not list(folder.rglob("*.tmp"))


def assert_equal(ours, theirs) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_equal(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            assert_equal(*pair)
    else:
        assert torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours == theirs


def assert_readable(folder: Path) -> None:
    """Everything a run has written so far can be read."""
    if (folder / "run.json").exists():
        assert read_run(folder).status in ("running", "finished")
    if (folder / "metrics.csv").exists():
        read_metrics(folder / "metrics.csv")
    for path in folder.glob("checkpoints/*.ckpt"):
        torch.load(path, weights_only=True)
    if (folder / "recall.npz").exists():
        with np.load(folder / "recall.npz") as arrays:
            assert all(arrays[name] is not None for name in arrays.files)
