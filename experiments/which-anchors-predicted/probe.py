"""What `study.py probe=true` expects of each configuration of the bank: probe.csv beside this file.

python experiments/which-anchors-predicted/probe.py <folder of the data sets> <folder for the studies> [set ...]

One study for each data set and recipe, on the training images alone; finished ones are not repeated.
"""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

from bank import ANCHORS, BASE, HERE, RECIPES, SETS
from rich.progress import track

from anchorlab.cli.quoting import in_quotes

OF_TRAINING = ("optimizer.", "trainer.", "callbacks.", "preflight=", "logger=", "data.cache=")
"""Settings of the bank that a study does not have."""
METRICS = {"AR_10": "probe_AR_10", "AR_100": "probe_AR_100", "AR_1000": "probe_AR_1000"}


def main(root: Path, studies: Path, sets: list[str]) -> None:
    for data, recipe in track([(data, recipe) for data in sets for recipe in RECIPES], "probing"):
        study(root / SETS[data], recipe, studies / data / recipe)
    rows = [
        {"data": data, "recipe": recipe, "anchors": anchors}
        | {shown: round(candidate["metrics"][name], 4) for name, shown in METRICS.items()}
        for data in SETS
        for recipe in RECIPES
        if (studies / data / recipe / "study.json").exists()
        for anchors, candidate in read(studies / data / recipe).items()
    ]
    with (HERE / "probe.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def study(root: Path, recipe: str, folder: Path) -> None:
    if (folder / "study.json").exists():
        return
    written = ",".join(f"[{','.join(map(in_quotes, overrides))}]" for overrides in ANCHORS.values())
    base = [override for override in BASE if not override.startswith(OF_TRAINING)]
    arguments = ["probe=true", f"candidates=[{written}]", f"data.root={root}", *base, *RECIPES[recipe]]
    command = [sys.executable, str(HERE.parents[1] / "study.py"), *arguments, f"hydra.run.dir={folder}"]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (folder / "seconds.txt").write_text(f"{time.perf_counter() - began:.0f}\n")


def read(folder: Path) -> dict[str, dict]:
    """Each configuration's part of study.json, which has them the best first."""
    found = json.loads((folder / "study.json").read_text())["candidates"]
    return {
        name: next(candidate for candidate in found if tuple(candidate["overrides"]) == overrides)
        for name, overrides in ANCHORS.items()
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(SETS))
