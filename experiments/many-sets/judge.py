"""Tables of results.csv: each recipe on each data set, and its difference to another, paired by image.

python experiments/many-sets/judge.py [<folder of the runs>] [--against "recommended, fixed tiers"] [--seeds 0 1]

With the runs' folder, compares those that lie there image by image and keeps the differences in differences.csv beside
this file; without, prints what is kept. An interval is that of a paired bootstrap over images (compare.py) and knows
nothing of the noise between seeds.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table
from run import AS_IT_IS, Trial

import anchorlab

HERE = Path(__file__).parent
METRICS = ("AR_10", "AR_100", "AR_1000")
Row = dict[str, str]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?")
    parser.add_argument("--against", default="recommended, fixed tiers")
    parser.add_argument("--seeds", nargs="+", help="those of the tables; without, all that there are")
    parser.add_argument("--split", default="held out", choices=("held out", "published"))
    said = parser.parse_args(arguments)
    results = [row for row in rows_of("results.csv") if row["split"] == said.split and row["scored"] != AS_IT_IS]
    kept = {key_of(row): row for row in rows_of("differences.csv")}
    if said.runs is not None:
        kept |= {key_of(row): row for row in compared(results, said.runs, said.against)}
        write(list(kept.values()))
    results = [row for row in results if said.seeds is None or row["seed"] in said.seeds]
    kept = {key: row for key, row in kept.items() if said.seeds is None or row["seed"] in said.seeds}
    screen = Console(width=170)
    for metric in METRICS:
        screen.print(table(metric, results, kept, said.against))


def rows_of(name: str) -> list[Row]:
    file = HERE / name
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def key_of(row: Row) -> tuple[str, ...]:
    return tuple(row[key] for key in ("data", "recipe", "seed", "split", "scored", "against", "metric"))


def folder_of(row: Row, runs: Path) -> Path:
    return Trial(row["data"], row["recipe"], int(row["seed"]), row["split"]).folder(runs, row["scored"])


def compared(results: Sequence[Row], runs: Path, against: str) -> Iterator[Row]:
    """The difference of every run in `runs` to that of the recipe `against` of the same data set and seed."""
    plain = {(row["data"], row["seed"]): row for row in results if (row["recipe"], row["scored"]) == (against, "")}
    for row in results:
        other = plain.get((row["data"], row["seed"]))
        if other is None or (row["recipe"] == against and row["scored"] == ""):
            continue
        folders = [folder_of(row, runs), folder_of(other, runs)]
        if not all((folder / "recall.npz").exists() for folder in folders):
            continue
        for metric in METRICS:
            comparison = anchorlab.compare(folders, metric=metric, baseline=folders[1])
            (found,) = [line for line in comparison.table if line["verdict"] != "baseline"]
            numbers = {name: f"{found[name]:.4f}" for name in ("difference", "low", "high")}
            of = {name: row[name] for name in ("data", "recipe", "seed", "split", "scored")}
            yield of | {"against": against, "metric": metric} | numbers


def write(rows: Sequence[Row]) -> None:
    with (HERE / "differences.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=key_of))


def table(metric: str, results: Sequence[Row], differences: dict[tuple[str, ...], Row], against: str) -> Table:
    """A row for each recipe, a column for each data set: the mean over seeds, and the difference to `against`."""
    sets = list(dict.fromkeys(row["data"] for row in results))
    shown = Table("recipe", *sets, "mean", title=f"{metric.replace('_', '@')}, and {against} subtracted")
    for recipe, scored in dict.fromkeys((row["recipe"], row["scored"]) for row in results):
        cells: list[Any] = []
        of_recipe = [row for row in results if (row["recipe"], row["scored"]) == (recipe, scored)]
        means = [mean(values) if (values := numbers(of_recipe, data, metric)) else None for data in sets]
        for data, value in zip(sets, means, strict=True):
            own = [row for key, row in differences.items() if key[0] == data and (key[1], key[4]) == (recipe, scored)]
            own = [row for row in own if (row["against"], row["metric"]) == (against, metric)]
            beside = "".join(f"\n{row['difference']} [{row['low']}, {row['high']}]" for row in own)
            cells.append("" if value is None else f"{value:.3f}{beside}")
        whole = [value for value in means if value is not None]
        cells.append(f"{mean(whole):.3f}" if len(whole) == len(sets) else "")
        shown.add_row(recipe + (f", {scored}" if scored else ""), *cells)
    return shown


def numbers(rows: Sequence[Row], data: str, metric: str) -> list[float]:
    return [float(row[metric]) for row in rows if row["data"] == data]


if __name__ == "__main__":
    main(sys.argv[1:])
