"""Every box loss x assigner x objectness with anchors of the right size, twice and half of it; and other extremes.

python experiments/silent-failures/run.py <folder for the runs>

Trains each on a small built-in data set, one a core at a time, and writes results.csv beside itself as they come:
AR@100, and the warnings that the run gave. What it holds is not trained again. When all are there, table.png. A row
near 0 without a warning is a failure of AnchorLab.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot
from rich.progress import track

from anchorlab.cli.overrides import check_overrides
from anchorlab.commands.train import train

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
CONFIGS = HERE.parents[1] / "conf"
BASE = (
    "data.reader.num_train=160",
    "data.reader.num_val=60",
    "data.reader.image_size=[96,128]",
    "data.reader.sizes=[10,56]",
    "data.long=128",
    "data.workers=0",
    "backbone.channels=32",
    "data.batch_size=8",
    "trainer.epochs=12",
    "trainer.val_every=6",
    "trainer.threads=1",
    "trainer.precision=32",
    "callbacks.pictures.images=0",
    "callbacks.outcome.images=0",
    "preflight=none",
    "logger=csv",
)
SCALES = {"half": 1.5, "right": 3, "twice": 6}
LOSSES = ("giou", "diou", "ciou", "iou", "smooth_l1", "l1")
ASSIGNERS = ("atss", "max_iou", "centre_region")
OBJECTNESS = ("bce", "focal", "quality_focal", "varifocal")
EXTREMES = {
    "lr x 10": ["optimizer.lr=0.01"],
    "lr x 30": ["optimizer.lr=0.03"],
    "lr x 0.1": ["optimizer.lr=0.0001"],
    "bf16": ["trainer.precision=bf16"],
    "batch of 1": ["data.batch_size=1", "trainer.epochs=2", "trainer.val_every=1"],
    "averaged weights": ["callbacks=ema"],
    "one box an image": ["data.reader.boxes_per_image=[1,1]"],
    "120 small boxes an image": ["data.reader.boxes_per_image=[120,120]", "data.reader.sizes=[7,9]", "anchor.scale=1"],
    "no gradient clipping": ["trainer.gradient_clip=null"],
    "the paper's start and coder": ["head.delta_std=0.01", "coder=delta"],
    "a start 100 times as wide": ["head.delta_std=1"],
    "the same, published loss": ["head.delta_std=1", "loss.delta_weight=0"],
    "the same, anchors four times": ["head.delta_std=1", "loss.delta_weight=0", "coder=delta", "anchor.scale=12"],
}


def main(folder: Path) -> None:
    trials = {
        f"{loss}, {assigner}, {objectness}, {name}": [
            f"loss={loss}",
            f"assigner={assigner}",
            f"objectness={objectness}",
            f"anchor.scale={scale}",
        ]
        for loss, assigner, objectness, (name, scale) in itertools.product(
            LOSSES, ASSIGNERS, OBJECTNESS, SCALES.items()
        )
    }
    trials |= {name: ["anchor.scale=3", *overrides] for name, overrides in EXTREMES.items()}
    rows = read_results()

    def keep(row: dict[str, Any]) -> None:
        rows[row["trial"]] = row
        write_results([rows[name] for name in trials if name in rows])

    left = [(name, overrides, folder) for name, overrides in trials.items() if name not in rows]
    for trial in left[:1]:
        keep(row_of(trial))  # and the data set is drawn
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        started = [pool.submit(row_of, trial) for trial in left[1:]]
        for job in track(as_completed(started), "training", total=len(started)):
            keep(job.result())
    draw(rows)


def read_results() -> dict[str, dict[str, Any]]:
    if not RESULTS.exists():
        return {}
    with RESULTS.open(newline="") as file:
        return {row["trial"]: row for row in csv.DictReader(file)}


def write_results(rows: list[dict[str, Any]]) -> None:
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def row_of(trial: tuple[str, list[str], Path]) -> dict[str, Any]:
    name, overrides, folder = trial
    run = folder / name.replace(", ", "-").replace(" ", "_")
    if not finished(run):
        arguments = [*BASE, f"data.root={folder / 'data'}", *overrides]
        with contextlib.redirect_stdout(io.StringIO()):
            train(check_overrides("train", CONFIGS, arguments), run, arguments)
    content = json.loads((run / "run.json").read_text())
    final = content["figures"]["final"]
    figures = {key: round(final[key], 4) for key in ("AR_10", "AR_100", "AR_1000", "box_iou", "anchor_iou")}
    warnings, commit = " ".join(content["warnings"]), content["commit"][:7]
    return {"trial": name, "overrides": " ".join(overrides), **figures, "warnings": warnings, "commit": commit}


def finished(run: Path) -> bool:
    record = run / "run.json"
    return record.exists() and json.loads(record.read_text())["status"] == "finished"


def draw(rows: dict[str, dict[str, Any]]) -> None:
    """AR@100 of the grid: a panel for each assigner, losses x objectness down, sizes of the anchors across."""
    matplotlib.use("Agg")
    figure, panels = pyplot.subplots(1, len(ASSIGNERS), figsize=(11, 8), sharey=True, layout="constrained")
    pairs = list(itertools.product(LOSSES, OBJECTNESS))
    best = max(float(row["AR_100"]) for row in rows.values())
    for panel, assigner in zip(panels, ASSIGNERS, strict=True):
        of_pairs = [[rows[f"{loss}, {assigner}, {kind}, {size}"] for size in SCALES] for loss, kind in pairs]
        values = np.array([[float(row["AR_100"]) for row in line] for line in of_pairs])
        panel.imshow(values, vmin=0, vmax=best, cmap="viridis", aspect="auto")
        for (y, x), value in np.ndenumerate(values):
            mark = "!" if of_pairs[y][x]["warnings"] else ""
            panel.text(
                x, y, f"{value:.2f}{mark}", ha="center", va="center", color="white" if value < 0.6 * best else "black"
            )
        panel.set_title(f"assigner={assigner}")
        panel.set_xticks(range(len(SCALES)), list(SCALES))
        panel.set_yticks(range(len(pairs)), [f"{loss}, {kind}" for loss, kind in pairs])
    figure.suptitle("AR@100 by size of the anchors (right: those that fit); ! the run warned")
    figure.savefig(HERE / "table.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
