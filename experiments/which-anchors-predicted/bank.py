"""Trains each anchor configuration on each data set under two recipes: the ground truth for predictors.

python experiments/which-anchors-predicted/bank.py <folder of the data sets> <folder for the runs> [set ...]

One run a core at a time, each on one thread. results.csv beside this file has every finished run; those in it are
skipped, so that it can be stopped at any moment and started again, on another machine too.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.progress import track

from anchorlab.cli.overrides import check_overrides
from anchorlab.commands.train import train

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
CONFIGS = HERE.parents[1] / "conf"
SETS = {
    "chess": "chess",
    "pcb": "pcb",
    "craters": "craters",
    "bccd": "bccd/BCCD",
    "receipts": "receipts",
    "facades": "facades",
    "voc": "voc07",
}
# The recipe of train.py, and that of the paper and of torchvision.
RECIPES = {
    "atss-giou": ("assigner=atss", "loss=giou", "coder=fit"),
    "max-iou": ("assigner=max_iou", "loss=smooth_l1", "coder=delta"),
}
BASE = (
    "data=auto",
    "backbone=efficientnet_lite0_fpn",
    "optimizer.lr=0.0005",
    "data.batch_size=4",
    "data.long=256",
    "data.limit_train=150",
    "data.limit_val=50",
    "data.on_error=skip",
    "data.workers=0",
    "data.cache=disk",
    "trainer.epochs=4",
    "trainer.val_every=4",
    "trainer.threads=1",
    "trainer.precision=32",
    "callbacks.pictures.images=0",
    "callbacks.outcome.images=0",
    "preflight=none",
    "logger=csv",
)
# Scales are in strides of a level, ratios height by width. Some are plainly wrong for most objects.
ANCHORS = {
    "1.5 square": ("anchor.scale=1.5", "anchor.ratios=[1]"),
    "4 square": ("anchor.scale=4", "anchor.ratios=[1]"),
    "8 square": ("anchor.scale=8", "anchor.ratios=[1]"),
    "16 square": ("anchor.scale=16", "anchor.ratios=[1]"),
    "2 three": ("anchor.scale=2", "anchor.ratios=[0.5,1,2]"),
    "4 three": ("anchor.scale=4", "anchor.ratios=[0.5,1,2]"),
    "8 three": ("anchor.scale=8", "anchor.ratios=[0.5,1,2]"),
    "4 flat": ("anchor.scale=4", "anchor.ratios=[0.125,0.167,0.25]"),
    "4 tall": ("anchor.scale=4", "anchor.ratios=[4,6,8]"),
    "4 nine": ("anchor.scale=4", "anchor.scales_per_octave=3", "anchor.ratios=[0.5,1,2]"),
    "8 nine": ("anchor.scale=8", "anchor.scales_per_octave=3", "anchor.ratios=[0.5,1,2]"),
    "fitted three": ("anchor=fit", "anchor.k=3"),
}
REPEATED = ("4 square", "4 three", "8 three", "4 tall")  # with seeds 1 and 2 too: the noise
FIGURES = ("AR_10", "AR_100", "AR_1000", "recall_100", "recall_1000")


@dataclass(frozen=True)
class Trial:
    """One training of the bank."""

    data: str
    recipe: str
    anchors: str
    seed: int

    def overrides(self, root: Path) -> list[str]:
        data = f"data.root={root / SETS[self.data]}"
        return [*BASE, data, *RECIPES[self.recipe], *ANCHORS[self.anchors], f"seed={self.seed}"]

    def folder(self, runs: Path) -> Path:
        return runs / self.data / self.recipe / f"{self.anchors.replace(' ', '-')}-{self.seed}"


def trials(sets: Sequence[str]) -> Iterator[Trial]:
    """In the order of their worth: train.py's own recipe first, the first seed of each configuration first."""
    for recipe in RECIPES:
        yield from (Trial(data, recipe, anchors, 0) for data, anchors in itertools.product(sets, ANCHORS))
        for seed, data, anchors in itertools.product((1, 2), sets, REPEATED):
            yield Trial(data, recipe, anchors, seed)


def main(root: Path, runs: Path, sets: Sequence[str]) -> None:
    cores = len(os.sched_getaffinity(0))
    known = read_results()
    left = [trial for trial in trials(sets) if trial not in known]
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        started = {pool.submit(run, trial, root, runs): trial for trial in left}
        for job in track(as_completed(started), "training", total=len(left)):
            known[started[job]] = job.result()
            write_results(known)


def run(trial: Trial, root: Path, runs: Path) -> dict[str, Any]:
    """Its row of results.csv."""
    folder = trial.folder(runs)
    if not finished(folder):
        arguments = trial.overrides(root)
        with contextlib.redirect_stdout(io.StringIO()):
            train(check_overrides("train", CONFIGS, arguments), folder, arguments)
    record = json.loads((folder / "run.json").read_text())
    figures = {name: round(record["figures"]["final"][name], 4) for name in FIGURES}
    seconds = round(record["timings"]["fit_s"])
    return {**vars(trial), **figures, "seconds": seconds, "commit": record["commit"][:7]}


def finished(folder: Path) -> bool:
    file = folder / "run.json"
    return file.exists() and json.loads(file.read_text())["status"] == "finished"


def read_results() -> dict[Trial, dict[str, Any]]:
    if not RESULTS.exists():
        return {}
    with RESULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {Trial(row["data"], row["recipe"], row["anchors"], int(row["seed"])): row for row in rows}


def write_results(known: dict[Trial, dict[str, Any]]) -> None:
    rows = [known[trial] for trial in trials(tuple(SETS)) if trial in known]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or tuple(SETS))
