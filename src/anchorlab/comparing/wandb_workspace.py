"""Weights & Biases workspace of a comparison: saves the views of comparison.html for the compared runs.

It holds no metrics: W&B draws them from what the runs logged. Only saving needs the server; `workspace` builds the
object without one.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr
from wandb_workspaces.reports.v2.interface import ParallelCoordinatesPlotColumn

from anchorlab.comparing.comparison import Comparison, Entry, Table
from anchorlab.errors import SettingError
from anchorlab.metrics.from_ranks import BUDGETS
from anchorlab.runs.gallery import read_gallery

PINNED = 20
"""Runs that W&B keeps in view at most."""


def saved(comparison: Comparison, entity: str, project: str, name: str, url: str | None = None) -> str:
    """Save the workspace, over the one at `url` where one is given; its address.

    Raises:
        SettingError: without runs with scores, credentials or an answer.
    """
    built = workspace(comparison, entity, project, name)
    try:
        if url is not None:
            before = ws.Workspace.from_url(url)
            before.name, before.sections, before.runset_settings = name, built.sections, built.runset_settings
            built = before
        return built.save().url
    except Exception as error:  # of W&B, its network library, or of an answer that it did not expect
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingError(
            f"wandb.save: W&B did not take the workspace ({reason}): run `wandb login`, or leave wandb=true out"
        ) from error


def workspace(comparison: Comparison, entity: str, project: str, name: str) -> ws.Workspace:
    """The workspace, in four sections: recall, anchors, images, runs side by side. Nothing is sent.

    Raises:
        SettingError: where no run has scores.
    """
    if not comparison.tables:
        raise SettingError("wandb.save: no run has scores, so there is nothing to show")
    table, metric = comparison.tables[0], comparison.question.metric
    axes = _axes(table)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(name="Recall", panels=_recall_panels(metric), is_open=True),
            ws.Section(name="Anchors", panels=_anchor_panels(axes, metric), is_open=True),
            ws.Section(name="Images", panels=_image_panels(table), is_open=True),
            ws.Section(name="Runs side by side", panels=[wr.RunComparer(diff_only="split")], is_open=True),
        ],
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=50, tooltip_number_of_runs="all_runs"),
        runset_settings=_runset(table, axes, metric),
    )


def _recall_panels(metric: str) -> list[Any]:
    """Recall against N from the last validation's table, its rise over the epochs, and a bar a run."""
    by_budget = [
        wr.CustomChart(
            query={"summaryTable": {"tableKey": "recall_table"}},
            chart_name="wandb/line/v0",
            chart_fields={"x": "N", "y": f"IoU {iou}"},
            chart_strings={"title": f"recall against N (IoU {iou})"},
        )
        for iou in ("0.50", "0.70")
    ]
    over_epochs = [
        wr.LinePlot(title=f"{name}@{n}", x="epoch", y=[f"val/{name}_{n}"])
        for name, budgets in (("recall", BUDGETS), ("AR", (100, 1000)))
        for n in budgets
    ]
    return [*by_budget, wr.BarPlot(title=metric, metrics=[metric]), *over_epochs]


def _anchor_panels(axes: Sequence[str], metric: str) -> list[Any]:
    columns = [ParallelCoordinatesPlotColumn(wr.Config(axis)) for axis in axes]
    columns.append(ParallelCoordinatesPlotColumn(wr.SummaryMetric(metric)))
    bars = [
        wr.BarPlot(
            title=f"{metric} by {axis}",
            metrics=[metric],
            groupby=wr.Config(axis),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )
        for axis in axes
    ]
    cost = wr.ScatterPlot(x=wr.Config("anchors_per_image"), y=wr.SummaryMetric(metric), title=f"{metric} against cost")
    importance = wr.ParameterImportancePlot(with_respect_to=metric)
    return [wr.ParallelCoordinatesPlot(columns=columns, title="anchors"), importance, *bars, cost]


def _image_panels(table: Table) -> list[Any]:
    """Each validation image that a run logged, one picture a run (W&B switches its layers of boxes)."""
    keys = list(dict.fromkeys(key for entry in table.entries[:PINNED] for key in _image_keys(entry)))
    return [wr.MediaBrowser(title=key, media_keys=[key], grid_x_axis="run", grid_y_axis="step") for key in keys]


def _image_keys(entry: Entry) -> Iterable[str]:
    try:
        scenes = read_gallery(entry.runs[0].folder)
    except ValueError:  # the page says so
        return
    for scene in scenes:
        yield re.sub(r"[^\w/]", "_", f"val/image_{scene.image_id}", flags=re.ASCII)  # as loggers.py names them


def _axes(table: Table) -> list[str]:
    """What runs differ in: the swept settings, then scalar axes, under the keys that their W&B config has."""
    scalars = dict.fromkeys(key for entry in table.entries for key in entry.runs[0].axes)
    varied = [key for key in scalars if len({str(entry.axis(key)) for entry in table.entries}) > 1]
    return list(dict.fromkeys([*_swept(table), *varied]))[:8]


def _swept(table: Table) -> list[str]:
    """The settings that differ; k and the like as the axis, which has a number where the setting is null."""
    axes = table.entries[0].runs[0].axes
    return [last if (last := key.rsplit(".", 1)[-1]) in axes else key for key in table.entries[0].settings]


def _runset(table: Table, axes: Sequence[str], metric: str) -> ws.RunsetSettings:
    """These runs alone, best first, with the axes as columns; the baseline is pinned, seeds are a group."""
    ids = [run.id for entry in table.entries for run in entry.runs]
    groups = {(run.config.get("logger") or {}).get("group") for entry in table.entries for run in entry.runs}
    by_group = None not in groups
    parts = [axis.partition(".") for axis in axes]
    columns = [*(f"config:{group}.value{dot}{rest}" for group, dot, rest in parts), f"summary:{metric}"]
    seeds = any(len(entry.runs) > 1 for entry in table.entries)
    return ws.RunsetSettings(
        groupby=[expr.Config(key) for key in _swept(table)] if seeds else [],
        filters=expr.And(
            expr.Metric("Group").isin(sorted(map(str, groups))) if by_group else expr.Metric("ID").isin(ids)
        ),
        order=[expr.Ordering(expr.Summary(metric), ascending=False)],
        pinned_columns=columns,
        baseline_run=None if table.baseline is None else table.entries[table.baseline].runs[0].id,
    )
