"""Text output of evaluate.py: recall by N and IoU, where recall is lost, and a table of several networks; scores
nothing.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anchorlab.analysis.attribution import AnchorReport
from anchorlab.console import Column, Facts, TextTable, command, console
from anchorlab.metrics.from_ranks import BUDGETS, THRESHOLDS, Metric, in_table
from anchorlab.plots.anchor_report import funnel_table, in_words
from anchorlab.runs.files import write_whole
from anchorlab.training.summary import metrics_table

COLUMNS = ("recall_100", "recall_1000", "AR_10", "AR_100", "AR_300", "AR_1000")


@dataclass(frozen=True)
class Evaluated:
    """One network, scored: its folder, metrics by name, recall (N, T), and largest difference to pycocotools."""

    name: str
    folder: Path
    title: str
    images: int
    metrics: dict[str, float]
    table: np.ndarray
    outcome: AnchorReport | None
    own: dict[str, float]
    """The run's own final metrics, where they are of the same checkpoint on the same settings; else empty."""
    difference: float | None


def show(found: Evaluated, brief: bool) -> None:
    """Everything about one network; in a few words where others follow."""
    screen = console()
    if brief:
        screen.print(f"{found.name}: AR@100 {found.metrics['AR_100']:.3f}  {found.folder}", soft_wrap=True)
        return
    screen.print(metrics_table(found.metrics, f"{found.name}: {found.title}"))
    screen.print(_by_iou(found))
    screen.print(_by_ranking(found))
    if found.outcome is not None:
        screen.print(funnel_table(found.outcome))
        for line in in_words(found.outcome):
            screen.print(line, soft_wrap=True)
    for line in [*_against_own(found), *_against_pycocotools(found), f"folder  {found.folder}"]:
        screen.print(line, soft_wrap=True)


def show_all(found: Sequence[Evaluated], folder: Path) -> None:
    """One row a network, printed and as evaluation.csv."""
    table = TextTable([Column("", left=True), *(Column(str(Metric.of(name))) for name in COLUMNS)], found[0].title)
    for row in found:
        table.add(row.name, *(f"{row.metrics[name]:.3f}" for name in COLUMNS))
    console().print(table)
    path = folder / "evaluation.csv"
    write_whole(path, _as_csv(found).encode())
    console().print(
        Facts([("table", str(path)), ("next", f"compare them with: {command('compare', [], f'runs={folder}')}")])
    )


def _by_iou(found: Evaluated) -> TextTable:
    table = TextTable([Column("IoU"), *(Column(f"N={budget}") for budget in BUDGETS)], "recall@N by IoU")
    for threshold, column in zip(THRESHOLDS, found.table.T, strict=True):
        table.add(f"{threshold:.2f}", *map(in_table, column))
    return table


def _by_ranking(found: Evaluated) -> TextTable:
    """What a perfect ranking of the same proposals would reach, and how far it is."""
    columns = [Column("AR@N", left=True), *(Column(f"N={budget}") for budget in BUDGETS)]
    table = TextTable(columns, "The same proposals, ranked by the IoU they have")
    reached, oracle = ([found.metrics[f"{which}AR_{n}"] for n in BUDGETS] for which in ("", "oracle_"))
    table.add("as ranked", *map(in_table, reached))
    table.add("by their IoU", *map(in_table, oracle))
    table.add("lost in ranking", *(in_table(best - own) for own, best in zip(reached, oracle, strict=True)))
    return table


def _against_own(found: Evaluated) -> list[str]:
    shared = [name for name in found.metrics if found.own.get(name) is not None]  # null: not a number
    if not shared:
        return []
    worst = max(abs(found.metrics[name] - found.own[name]) for name in shared)
    same = "equal bit for bit" if worst == 0 else f"largest difference {worst:.1e}"
    return [f"against the run's own metrics ({len(shared)}): {same}"]


def _against_pycocotools(found: Evaluated) -> list[str]:
    if found.difference is None:
        return []
    return [f"against pycocotools on the exported proposals: largest difference {found.difference:.1e}"]


def _as_csv(found: Sequence[Evaluated]) -> str:
    text = io.StringIO()
    names = list(found[0].metrics)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "folder", "images", *names])
    writer.writerows([row.name, row.folder, row.images, *(row.metrics[name] for name in names)] for row in found)
    return text.getvalue()
