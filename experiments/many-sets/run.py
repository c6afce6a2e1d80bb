"""Trains recipes on eight unlike data sets, all alike: the benchmark that says whether a recipe is better.

python experiments/many-sets/run.py <folder of the data sets> <folder for the runs> [--sets chess ...] [--recipes ...]
    [--seeds 0 1] [--published]

One training a core at a time, each a process on one thread. results.csv beside this file has every finished run, and
those in it are skipped: it can be stopped at any moment and started again, on another machine too. Scored is a fifth of
the training images, held out; only with --published the validation split.
"""

import argparse
import csv
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.progress import track

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.csv"
UPDATES = 300
"""Optimizer steps of every training: sets of many images and of few cost the same."""
BATCH = 4
HELD_OUT = 0.2
FIGURES = (
    *("AR_10", "AR_100", "AR_300", "AR_1000", "recall_100", "recall_1000"),
    *("AR_s_1000", "AR_m_1000", "AR_l_1000"),
    *("oracle_AR_10", "oracle_AR_100"),  # of the same proposals ranked by their true IoU; evaluate.py alone has them
)


@dataclass(frozen=True)
class DataSet:
    """Where a data set lies, the longer side that its images get, and how many images it trains on as published."""

    folder: str
    long: int
    images: int
    overrides: tuple[str, ...] = ()


SETS = {
    "bccd": DataSet("bccd/BCCD", 320, 205, ("data.on_error=skip",)),
    "voc": DataSet("voc07", 320, 1000),
    "coco": DataSet("coco128", 320, 102),
    "receipts": DataSet("receipts", 416, 300),
    "facades": DataSet("facades", 320, 300),
    "pcb": DataSet("pcb", 320, 300),
    "chess": DataSet("chess", 320, 202),
    "craters": DataSet("craters", 320, 300),
}


@dataclass(frozen=True)
class Recipe:
    """A training, and what else its network is scored with.

    program: that is given the overrides. scored: by name, other overrides of evaluate.py for the same network.
    """

    overrides: tuple[str, ...]
    program: str = "train.py"
    scored: tuple[tuple[str, str], ...] = ()


TIERS = ("tiers", "proposals=tiered")
APART = ("levels apart", "proposals=tiered proposals.across_levels=0")
FITTED = ("fitted tiers", "proposals=fit")
AS_IT_IS = "evaluated"  # for what evaluate.py alone finds out
SLOW = "refine.lr_factor=1"  # as these were trained
RECIPES = {
    "torchvision lr 0.0005": Recipe(("optimizer.lr=0.0005",), "experiments/recipe/torchvision_rpn.py", (TIERS,)),
    "torchvision lr 0.001": Recipe(("optimizer.lr=0.001",), "experiments/recipe/torchvision_rpn.py", (TIERS,)),
    "plain": Recipe(("experiment=recipe",), scored=(TIERS,)),
    "recommended": Recipe(("experiment=recommended",), scored=((AS_IT_IS, ""),)),
    "recommended, slow look": Recipe(("experiment=recommended", SLOW), scored=((AS_IT_IS, ""),)),
    "recommended, fixed tiers": Recipe(("experiment=recommended", SLOW, "proposals=tiered"), scored=(APART, FITTED)),
    "recommended, one look": Recipe(
        ("experiment=recommended", "refine=none", "proposals=tiered", "proposals.across_levels=0"),
        scored=(("nms 0.7", "proposals=default"),),
    ),
    "recommended, square": Recipe(("experiment=recommended", "anchor=default", "anchor.ratios=[1]")),
    "recommended, three": Recipe(("experiment=recommended", "anchor=default")),
    "recommended, fitted": Recipe(("experiment=recommended", SLOW, "anchor=fit", "anchor.k=3")),
    "recommended, two convolutions": Recipe(("experiment=recommended", "head.convs=2")),
    "recommended, wide look": Recipe(("experiment=recommended", "refine.width=128", "refine.channels=512")),
    "recommended, lite1": Recipe(("experiment=recommended", "backbone=efficientnet_lite1_fpn")),
    "cascade": Recipe(
        ("experiment=recipe-cascade",),
        scored=(TIERS, ("nms 0.8", "proposals=default proposals.nms_iou=0.8 proposals.pre_nms_top_n=2000")),
    ),
}


@dataclass(frozen=True)
class Trial:
    """One training of the benchmark."""

    data: str
    recipe: str
    seed: int
    split: str  # "held out" or "published"

    def folder(self, runs: Path, scored: str = "") -> Path:
        """Of the run, or of another way to score its network."""
        name = f"{self.recipe.replace(',', '')} {self.seed} {scored}".strip()
        return runs / self.split.replace(" ", "-") / self.data / name.replace(" ", "-")

    def command(self, root: Path, runs: Path) -> list[str]:
        data, recipe = SETS[self.data], RECIPES[self.recipe]
        held_out = HELD_OUT if self.split == "held out" else 0
        epochs = max(1, round(UPDATES / math.ceil(data.images * (1 - held_out) / BATCH)))
        return [
            *(sys.executable, str(ROOT / recipe.program), *recipe.overrides, *data.overrides),
            *("data=auto", f"data.root={root / data.folder}", f"data.long={data.long}", f"data.batch_size={BATCH}"),
            *(
                "data.workers=0",
                "data.cache=disk",
                "data.pad_to=32",
                *([f"data.holdout={held_out}"] if held_out else []),
            ),
            *("backbone.batch_norm=affine", f"trainer.epochs={epochs}", f"trainer.val_every={epochs}"),
            *("trainer.threads=1", "trainer.precision=32", "logger=csv", "preflight=none"),
            *("callbacks.pictures.images=0", "callbacks.outcome.images=0", f"seed={self.seed}"),
            *("overwrite=true", f"hydra.run.dir={self.folder(runs)}"),
        ]


def main(arguments: Sequence[str]) -> None:
    said = parsed(arguments)
    known = read_results()
    split = "published" if said.published else "held out"
    wanted = [Trial(*one, split) for one in itertools.product(said.sets, said.recipes, said.seeds)]
    left = [trial for trial in wanted if not any(key[0] == trial for key in known)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        started = {pool.submit(run, trial, said.data, said.runs): trial for trial in left}
        for job in track(as_completed(started), "training", total=len(left)):
            known |= {(started[job], name): row for name, row in job.result()}
            write_results(known)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--published", action="store_true", help="score the validation split, which chooses nothing")
    return parser.parse_args(arguments)


def run(trial: Trial, root: Path, runs: Path) -> list[tuple[str, dict[str, Any]]]:
    """Rows of results.csv: of the run, and of each other way to score its network."""
    folder = trial.folder(runs)
    if not finished(folder):
        call(trial.command(root, runs), Path(f"{folder}.log"))
    rows = [("", row_of(trial, "", folder))]
    for name, overrides in RECIPES[trial.recipe].scored:
        scored = trial.folder(runs, name)
        if not finished(scored):
            words = [f"run={folder}", f"hydra.run.dir={scored}", "overwrite=true", *overrides.split()]
            call([sys.executable, str(ROOT / "evaluate.py"), *words], Path(f"{scored}.log"))
        rows.append((name, row_of(trial, name, scored)))
    return rows


def call(command: list[str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=True, cwd=ROOT)


def finished(folder: Path) -> bool:
    file = folder / "run.json"
    return file.exists() and json.loads(file.read_text())["status"] == "finished"


def row_of(trial: Trial, scored: str, folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "run.json").read_text())
    final = record["figures"]["final"]
    figures = {name: "" if final.get(name) is None else round(final[name], 4) for name in FIGURES}
    seconds = round(record["timings"].get("fit_s", 0)) or ""
    return {**vars(trial), "scored": scored, **figures, "seconds": seconds, "commit": record["commit"][:7]}


def read_results() -> dict[tuple[Trial, str], dict[str, Any]]:
    if not RESULTS.exists():
        return {}
    with RESULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(Trial(row["data"], row["recipe"], int(row["seed"]), row["split"]), row["scored"]): row for row in rows}


def write_results(known: dict[tuple[Trial, str], dict[str, Any]]) -> None:
    rows = [known[key] for key in in_order(known)]
    columns = [*(field.name for field in fields(Trial)), "scored", *FIGURES, "seconds", "commit"]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def in_order(keys: Iterable[tuple[Trial, str]]) -> list[tuple[Trial, str]]:
    """By split, data set and recipe as these are listed above."""
    places = [list(SETS), list(RECIPES)]
    return sorted(
        keys,
        key=lambda key: (
            key[0].split,
            places[0].index(key[0].data),
            places[1].index(key[0].recipe),
            key[0].seed,
            key[1],
        ),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
