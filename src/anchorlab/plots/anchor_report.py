"""Figures and tables of a trained network's funnel and attribution; `analysis/` computes the numbers."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from anchorlab.analysis.attribution import AnchorReport
from anchorlab.metrics.from_ranks import in_table
from anchorlab.plots.palette import BLUE, GREEN, ORANGE, SKY_BLUE

COLUMNS = {"positives": "positives", "proposals": "proposals", "matched": "matched boxes"}
COLUMN_COLOURS = (ORANGE, SKY_BLUE, GREEN)
AR, AT_50, AT_70 = BLUE, SKY_BLUE, GREEN


def funnel_figure(report: AnchorReport) -> Figure:
    """Recall at IoU 0.5 and 0.7 and its mean over IoUs after each stage, as bars side by side."""
    rows = report.funnel.rows()
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(rows))
    series = (("recall_50", "IoU 0.5", AT_50), ("recall_70", "IoU 0.7", AT_70), ("AR", "mean over 0.5:0.95", AR))
    for at, (key, label, colour) in enumerate(series):
        heights = [row[key] or 0.0 for row in rows]
        bars = axis.bar(places + 0.27 * (at - 1), heights, width=0.26, color=colour, label=label)
        axis.bar_label(bars, [f"{height:.2f}" for height in heights], fontsize=6.5)
    axis.set_xticks(places, [row["stage"] for row in rows], fontsize=8)
    axis.set(ylim=(0, 1.12), ylabel="share of the boxes found", title=f"Where recall is lost: {report.images} images")
    axis.legend(fontsize=8, ncols=3, loc="upper right")
    return figure


def attribution_figure(report: AnchorReport) -> Figure:
    """For each shape its shares of positives, proposals and matched boxes, and what AR loses without it."""
    shapes = report.shapes
    figure = Figure(figsize=(9, 1.4 + 0.36 * len(shapes)), layout="constrained")
    shares, losses = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    places = np.arange(len(shapes))
    for at, ((key, label), colour) in enumerate(zip(COLUMNS.items(), COLUMN_COLOURS, strict=True)):
        values = [getattr(shape, key) for shape in shapes]
        shares.barh(places + 0.27 * (at - 1), values, height=0.26, label=label, color=colour)
    names = [shape.name + (" (dead)" if shape.matched == 0 else "") for shape in shapes]
    shares.set_yticks(places, names, fontsize=8)
    shares.set(xlabel="share of all shapes together", title=f"What each anchor does: {report.images} images")
    shares.legend(fontsize=8)
    shares.invert_yaxis()
    losses.barh(places, [report.AR - shape.AR_without for shape in shapes], height=0.5, color=AR)
    losses.axvline(0, color="black", linewidth=0.8)
    losses.set(xlabel=f"AR@{report.budget} lost without it (of {report.AR:.3f})")
    for axis in (shares, losses):
        axis.grid(axis="x", alpha=0.3)
    return figure


def funnel_table(report: AnchorReport) -> Table:
    table = Table(title=f"Where recall is lost: {report.images} images", title_justify="left", title_style="bold")
    for name in ("stage", "IoU 0.5", "IoU 0.7", "AR"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for row in report.funnel.rows():
        table.add_row(row["stage"], *(in_table(row[key]) for key in ("recall_50", "recall_70", "AR")))
    return table


def table_rows(report: AnchorReport) -> tuple[list[str], list[list[str | float]]]:
    """Columns and rows of the attribution, for a table in W&B."""
    columns = ["anchor", *COLUMNS, "AR_without", "AR_lost"]
    rows: list[list[str | float]] = [
        [shape.name, shape.positives, shape.proposals, shape.matched, shape.AR_without, report.AR - shape.AR_without]
        for shape in report.shapes
    ]
    return columns, rows


def in_words(report: AnchorReport) -> list[str]:
    """Sentences: the stage that loses most recall, and the shapes that found nothing."""
    lines = []
    drops = report.funnel.losses()
    if drops and drops[0][1] > 0:
        stage, lost = drops[0]
        lines.append(f'most recall is lost at "{stage}": {lost:.3f} of AR')
    dead = report.dead()
    if dead:
        lines.append(f"anchors that found no box: {_some(dead)}")
    return lines


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
