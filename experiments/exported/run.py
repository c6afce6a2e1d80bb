"""AR of trained networks as every kind of file, used by the documented lines in a fresh process, beside evaluate.py's.

python experiments/exported/run.py <folder of the data sets> <folder for the runs> [set ...]

Trains each backbone on each data set for a few minutes, exports it, and scores it at five sizes of the network's
input. What is there already is not done again. results.csv beside this file has every value.
"""

import contextlib
import csv
import io
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from anchorlab.build import build_validation_data
from anchorlab.cli.overrides import check_overrides
from anchorlab.commands.evaluate import evaluate
from anchorlab.commands.export import SCORED, metrics_of, save_onnx, save_program
from anchorlab.commands.train import train
from anchorlab.trained.graph import exported_program
from anchorlab.trained.load import Trained, load_trained
from anchorlab.trained.usage import EXAMPLE, program, run_program

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "conf"
SETS = {"bccd": "bccd/BCCD", "chess": "chess"}
BACKBONES = {
    "efficientnet_lite0_fpn": ("optimizer.lr=0.0005", "trainer.epochs=2"),  # from ImageNet weights
    "tiny": ("trainer.epochs=6",),
}
SIZES = (200, 232, 256, 293, 350)
"""Of the longer side; but for 256 neither side is a multiple of 32, to which every file has to pad as training did."""
IMAGES = 24
TABLE = "files.csv"
BASE = (
    "data=auto",
    "anchor.scale=4",
    "anchor.ratios=[0.5,1,2]",
    "data.batch_size=4",
    "data.long=256",
    "data.limit_train=150",
    f"data.limit_val={IMAGES}",
    "data.on_error=skip",
    "data.workers=0",
    "trainer.val_every=2",
    "trainer.threads=1",
    "trainer.precision=32",
    "callbacks.pictures.images=0",
    "callbacks.outcome.images=0",
    "preflight=none",
    "logger=csv",
)

Row = dict[str, Any]

CHECKPOINT = """\
import cv2
import numpy as np

from anchorlab.trained.load import load_trained
from anchorlab.trained.proposer import Proposer

trained = load_trained("last.ckpt")
trained.config["data"]["long"] = {size}
propose = Proposer(trained)
"""

# With the resizing of the other files: torchvision's own interpolates in another way.
TORCHVISION = """\
import cv2
import numpy as np
import torch

from anchorlab.trained.load import load_trained
from anchorlab.trained.torchvision import to_torchvision

trained = load_trained("last.ckpt")
trained.config["data"]["long"] = {size}
model = to_torchvision(trained)


def run(images):
    with torch.no_grad():
        images, _ = model.transform([torch.from_numpy(images[0]) / 255])
        (boxes,), _ = model.rpn(images, model.backbone(images.tensors))
    return boxes.numpy(), np.linspace(1, 0, len(boxes))  # best first; it does not give the scores
"""

SEVERAL = """\
import itertools

import cv2
import numpy as np


def proposer(lines):
    names = {{}}
    exec(lines, names)
    return names["propose"]


proposers = [proposer(lines) for lines in {programs!r}]
turns = itertools.chain.from_iterable(itertools.repeat(one, {photos}) for one in proposers)


def propose(photo):
    return next(turns)(photo)
"""


def main(root: Path, runs: Path, sets: Sequence[str]) -> None:
    cases = list(itertools.product(sets, BACKBONES))
    for data, backbone in track(cases, "networks"):
        folder = runs / f"{backbone}-{data}"
        if not (folder / TABLE).is_file():
            write(folder / TABLE, compared(backbone, data, root, folder))
    tables = [runs / f"{backbone}-{data}" / TABLE for data in SETS for backbone in BACKBONES]
    write(HERE / "results.csv", [row for table in tables if table.is_file() for row in read(table)])


def compared(backbone: str, data: str, root: Path, folder: Path) -> list[Row]:
    """A row for each size and kind of file."""
    checkpoint = folder / "checkpoints" / "last.ckpt"
    with contextlib.redirect_stdout(io.StringIO()):
        if not checkpoint.is_file():
            words = [*BASE, f"backbone={backbone}", *BACKBONES[backbone], f"data.root={root / SETS[data]}"]
            train(check_overrides("train", CONFIGS, words), folder, words)
        trained = load_trained(checkpoint)
        files = written(trained, checkpoint.parent)
        evaluated = evaluations(folder)
    photos = build_validation_data({**trained.config["data"], "limit_val": IMAGES}).val_records
    paths = [record.path for record in photos] * len(SIZES)
    rows = []
    for kind, file in {**files, "checkpoint": checkpoint, "to_torchvision": checkpoint}.items():
        found = run_program(at_all_sizes([lines(kind, size) for size in SIZES], len(photos)), file, paths)
        for size, start in zip(SIZES, range(0, len(paths), len(photos)), strict=True):
            metrics = metrics_of(photos, found[start : start + len(photos)])
            setting = {"backbone": backbone, "data": data, "images": len(photos), "size": size, "file": kind}
            theirs = {f"{name} of evaluate.py": evaluated[size][name] for name in SCORED}
            rows.append(setting | {name: round(value, 4) for name, value in (metrics | theirs).items()})
    return rows


def written(trained: Trained, folder: Path) -> dict[str, Path]:
    graph = exported_program(trained.network, trained.pad_to)
    return {
        ".pt2": save_program(graph, folder / "model.pt2"),
        ".onnx": save_onnx(graph, folder / "model.onnx"),
    }


def lines(kind: str, size: int) -> str:
    """What uses a file at one size, as MODEL_CARD.md and docs/using.md have it."""
    graph = program("model.pt2" if kind == ".pt2" else "model.onnx", None, size).removesuffix(EXAMPLE)
    if kind == "checkpoint":
        return CHECKPOINT.format(size=size)
    if kind == "to_torchvision":
        return f"{TORCHVISION.format(size=size)}\n\n{graph[graph.index('def propose') :]}"
    return graph


def at_all_sizes(programs: list[str], photos: int) -> str:
    """A program that runs each of these on so many photographs, one after the other."""
    return SEVERAL.format(programs=programs, photos=photos) + EXAMPLE


def evaluations(run: Path) -> dict[int, dict[str, float]]:
    """What evaluate.py says, by size."""
    words = [
        f"run={run}",
        f"eval.size={list(SIZES)}",
        f"eval.limit={IMAGES}",
        "eval.batch_size=1",
        "precision=32",
        "pictures=0",
        "outcome=0",
        "overwrite=true",
    ]
    done = evaluate(check_overrides("evaluate", CONFIGS, words), run / "evaluated")
    return {size: one.metrics for size, one in zip(SIZES, done, strict=True)}


def write(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main(Path(sys.argv[1]).expanduser(), Path(sys.argv[2]).expanduser(), sys.argv[3:] or tuple(SETS))
