"""How well each number known before training orders the trained networks of the bank: tables and a picture a recipe.

python experiments/which-anchors-predicted/judge.py

Reads results.csv, features.csv and, where there is one, probe.csv beside this file. Rank correlations are with AR@100
of the networks of seed 0, within a data set and a recipe. No number is fitted; the sign of a feature is chosen on the
other data sets (leave one out).
"""

import csv
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from anchorlab.plots.palette import LEVELS

HERE = Path(__file__).parent
METRICS = ("AR_10", "AR_100", "AR_1000")
LEAST = 8
"""Configurations of a data set from which on it is judged."""
FIELDS = (1, 2, 3, 4, 6)

Place = tuple[str, str]
Values = Mapping[str, float]


def main() -> None:
    trained, seeds = read_trained()
    known = read_known()
    places = [place for place, values in trained.items() if len(values) >= LEAST]
    screen = Console(width=150)
    screen.print(spread_table(places, trained, seeds))
    for recipe in dict.fromkeys(recipe for _, recipe in places):
        of_recipe = [place for place in places if place[1] == recipe]
        screen.print(correlations(of_recipe, trained, known))
        screen.print(first_rungs(of_recipe, trained, known))
        draw(recipe, [data for data, of in places if of == recipe])


def read_trained() -> tuple[dict[Place, dict[str, float]], dict[Place, dict[str, list[float]]]]:
    """AR@100 of seed 0 by configuration, and of all seeds."""
    first: dict[Place, dict[str, float]] = defaultdict(dict)
    every: dict[Place, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows_of("results.csv"):
        place = (row["data"], row["recipe"])
        every[place][row["anchors"]].append(float(row["AR_100"]))
        if row["seed"] == "0":
            first[place][row["anchors"]] = float(row["AR_100"])
    return first, every


def read_known() -> dict[str, dict[Place, dict[str, float]]]:
    """By feature, place and configuration."""
    known: dict[str, dict[Place, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for name in ("features.csv", "probe.csv"):
        for row in rows_of(name):
            place, anchors = (row.pop("data"), row.pop("recipe")), row.pop("anchors")
            for feature, value in row.items():
                known[feature][place][anchors] = float(value)
    return known


def rows_of(name: str) -> list[dict[str, str]]:
    if not (HERE / name).exists():
        return []
    with (HERE / name).open(newline="") as file:
        return list(csv.DictReader(file))


def spread_table(places: list[Place], trained: Mapping[Place, Values], seeds: Mapping[Place, Mapping]) -> Table:
    table = Table(
        "data", "recipe", "n", "best", "AR@100", "4 square", "4 three", "8 three", "4 nine", "worst", "seed sd"
    )
    for place in places:
        values = trained[place]
        best, worst = max(values, key=lambda name: values[name]), min(values, key=lambda name: values[name])
        spreads = [np.var(found, ddof=1) for found in seeds[place].values() if len(found) > 1]
        shown = [
            f"{values[name]:.3f}" if name in values else "" for name in ("4 square", "4 three", "8 three", "4 nine")
        ]
        noise = f"{np.sqrt(np.mean(spreads)):.3f}" if spreads else ""
        worst = f"{worst} {values[worst]:.3f}"
        table.add_row(*place, str(len(values)), best, f"{values[best]:.3f}", *shown, worst, noise)
    return table


def correlations(
    places: list[Place], trained: Mapping[Place, Values], known: Mapping[str, Mapping[Place, Values]]
) -> Table:
    """Spearman with AR@100, and AR points that the configuration which a feature would take lies behind the best."""
    table = Table(
        "feature", *(f"{data}: rho, regret" for data, _ in places), "mean rho", "mean regret", title=places[0][1]
    )
    for feature, of_place in known.items():
        rho = {place: rank_correlation(of_place[place], trained[place]) for place in places if place in of_place}
        cells, signed, lost = [], [], []
        for place in places:
            others = [value for other, value in rho.items() if other != place and not np.isnan(value)]
            if place not in rho or not others:
                cells.append("")
                continue
            sign = 1 if np.mean(others) >= 0 else -1
            values = trained[place]
            chosen = max(values, key=lambda name: sign * of_place[place].get(name, -np.inf * sign))
            signed.append(sign * rho[place])
            lost.append(max(values.values()) - values[chosen])
            cells.append(f"{signed[-1]:+.2f} {lost[-1]:.3f}")
        table.add_row(
            feature, *cells, f"{np.mean(signed):+.2f}" if signed else "", f"{np.mean(lost):.3f}" if lost else ""
        )
    return table


def first_rungs(
    places: list[Place], trained: Mapping[Place, Values], known: Mapping[str, Mapping[Place, Values]]
) -> Table:
    """AR points that the best of the m configurations with the most of a feature lies behind the best of all.

    What a sweep would lose that trains those m alone. Chance: the mean over all choices of m.
    """
    table = Table(
        "trained of twelve", *map(str, FIELDS), title=f"{places[0][1]}: behind the best, mean of the data sets"
    )

    def lost(place: Place, most_of: Values, m: int) -> float:
        kept = sorted(trained[place], key=lambda name: -most_of[name])[:m]
        return max(trained[place].values()) - max(trained[place][name] for name in kept)

    for feature, of_place in known.items():
        if all(place in of_place for place in places):
            means = [np.mean([lost(place, of_place[place], m) for place in places]) for m in FIELDS]
            table.add_row(feature, *(f"{value:.4f}" for value in means))
    table.add_row("chance", *(f"{np.mean([by_chance(trained[place], m) for place in places]):.4f}" for m in FIELDS))
    return table


def by_chance(trained: Values, m: int) -> float:
    """The mean over all fields of m: the i-th best is the best of as many as can be made of those behind it."""
    ranked = sorted(trained.values(), reverse=True)
    fields = [math.comb(len(ranked) - 1 - i, m - 1) for i in range(len(ranked))]
    return ranked[0] - float(np.average(ranked, weights=fields))


def rank_correlation(known: Values, trained: Values) -> float:
    names = [name for name in trained if name in known]
    ours, theirs = [known[name] for name in names], [trained[name] for name in names]
    return float("nan") if len(set(ours)) < 2 else float(np.corrcoef(rankdata(ours), rankdata(theirs))[0, 1])


def draw(recipe: str, sets: list[str]) -> None:
    """How far each configuration of seed 0 lies behind the best of its data set, for three budgets."""
    rows = [row for row in rows_of("results.csv") if row["recipe"] == recipe and row["seed"] == "0"]
    names = list(dict.fromkeys(row["anchors"] for row in rows))
    figure, axes = plt.subplots(1, len(METRICS), figsize=(12, 4.8), sharey=True, sharex=True, layout="constrained")
    for axis, metric in zip(axes, METRICS, strict=True):
        for colour, name in zip(LEVELS, sets, strict=False):
            values = {row["anchors"]: float(row[metric]) for row in rows if row["data"] == name}
            behind = [max(values.values()) - values[anchors] for anchors in names]
            axis.plot(behind, range(len(names)), "o", color=colour, alpha=0.85, markersize=6, label=name)
        axis.set_title(metric.replace("_", "@"), fontsize=11)
        axis.set_xlabel("behind the best of the data set")
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[0].invert_xaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(sets), frameon=False)
    figure.savefig(HERE / f"{recipe}.png", dpi=110)


if __name__ == "__main__":
    main()
