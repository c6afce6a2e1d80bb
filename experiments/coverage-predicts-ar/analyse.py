"""Rank correlation of what is known before training with AR after it, beside the most that seed noise allows.

python experiments/coverage-predicts-ar/analyse.py synthetic=<sweep>[,<sweep>] BCCD=<sweep> ...

One point a configuration: AR of its first seed, as a search would see it. What a perfect prediction would reach is
simulated: the noise between seeds, pooled over the configurations that were repeated, is taken out of the spread of
the points and added anew. Writes results.csv and scatter.png beside itself.

R: configurations.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from anchorlab.comparing.scores import read_runs
from anchorlab.runs.record import Run

HERE = Path(__file__).parent
PREDICTIONS = {
    "coverage": "share of the training boxes with an anchor of IoU 0.7",
    "possible_recall_50": "the same at IoU 0.5",
    "positives_per_image": "positive anchors per image",
}
FIGURES = ("AR_100", "AR_1000")
RESAMPLES = 5000


def main(arguments: list[str]) -> None:
    sets = {name: read_sets(paths.split(",")) for name, _, paths in (item.partition("=") for item in arguments)}
    table = Table("data", "figure", "known before", "R", "Spearman", "95 % interval", "perfect", "noise")
    for name, configurations in sets.items():
        for figure in FIGURES:
            values, noise = spread(configurations, figure)
            ceiling = perfect(values, noise)
            for known in PREDICTIONS:
                before = np.array([runs[0].axes[known] for runs in configurations])
                low, high = interval(before, values)
                row = (name, figure, known, str(len(values)), f"{correlation(before, values):.2f}")
                table.add_row(*row, f"{low:.2f} to {high:.2f}", f"{ceiling:.2f}", f"{noise:.4f}")
    Console(width=110).print(table)
    write(sets)
    draw(sets)


def read_sets(sweeps: list[str]) -> list[list[Run]]:
    """The finished runs of each configuration, by seed."""
    runs, _ = read_runs(sweeps)
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.seed or 0):
        if run.status == "finished" and run.config_hash:
            groups[run.config_hash].append(run)
    return list(groups.values())


def spread(configurations: list[list[Run]], figure: str) -> tuple[np.ndarray, float]:
    """(R,) the figure of each configuration's first seed, and the standard deviation between seeds."""
    groups = [np.array([run.final[figure] for run in runs]) for runs in configurations]
    repeated = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in repeated)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in repeated)
    return np.array([group[0] for group in groups]), float(np.sqrt(squares / freedom)) if freedom else float("nan")


def correlation(before: np.ndarray, after: np.ndarray) -> float:
    return float(spearmanr(before, after)[0])  # pyright: ignore[reportArgumentType]


def interval(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap over configurations."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(before), (RESAMPLES, len(before)))
    found = [correlation(before[draw], after[draw]) for draw in draws if np.ptp(before[draw]) and np.ptp(after[draw])]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def perfect(values: np.ndarray, noise: float) -> float:
    """Mean rank correlation of true values, spread as `values` without noise, with noisy ones; NaN without repeats."""
    if np.isnan(noise):
        return noise
    rng = np.random.default_rng(0)
    share = max(0.0, 1 - noise**2 / values.var(ddof=1))
    true = values.mean() + np.sqrt(share) * (values - values.mean())
    return float(np.mean([correlation(true, true + rng.normal(0, noise, len(true))) for _ in range(RESAMPLES // 10)]))


def write(sets: dict[str, list[list[Run]]]) -> None:
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["data", "scale", "ratios", "k", "seed", *PREDICTIONS, *FIGURES])
        for name, configurations in sets.items():
            for run in (run for runs in configurations for run in runs):
                anchor = run.config["anchor"]
                known = [f"{run.axes[key]:.6f}" for key in PREDICTIONS]
                found = [f"{run.final[key]:.6f}" for key in FIGURES]
                writer.writerow([name, anchor["scale"], anchor["ratios"], run.axes["k"], run.seed, *known, *found])


def draw(sets: dict[str, list[list[Run]]]) -> None:
    """A row a data set: coverage and possible recall against AR@100; vertical bars span the seeds."""
    matplotlib.use("Agg")
    known = tuple(PREDICTIONS)[:2]
    figure, axes = pyplot.subplots(
        len(sets), len(known), figsize=(10, 4 * len(sets)), squeeze=False, sharey="row", layout="constrained"
    )
    for row, (name, configurations) in zip(axes, sets.items(), strict=True):
        for axis, key in zip(row, known, strict=True):
            before = np.array([runs[0].axes[key] for runs in configurations])
            values, _ = spread(configurations, "AR_100")
            sizes = np.array([runs[0].axes["k"] for runs in configurations])
            points = axis.scatter(before, values, c=sizes, cmap="viridis", edgecolors="black", linewidths=0.5, zorder=2)
            for x, runs in zip(before, configurations, strict=True):
                found = [run.final["AR_100"] for run in runs]
                axis.plot([x, x], [min(found), max(found)], color="grey", zorder=1)
            axis.set(xlabel=PREDICTIONS[key], title=f"{name}: Spearman {correlation(before, values):.2f}")
            axis.grid(alpha=0.3)
        row[0].set_ylabel("AR@100 after training")
        figure.colorbar(points, ax=list(row), label="k")
    figure.savefig(HERE / "scatter.png", dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
