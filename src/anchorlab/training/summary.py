"""Summaries of a run on the console: its plan before training, and its results after."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from anchorlab.analysis.ground_truth import feature_grids, input_size
from anchorlab.console import console
from anchorlab.data.module import DataModule
from anchorlab.data.sample import Record
from anchorlab.metrics.from_ranks import BUDGETS, KINDS, in_table
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.training.resume import position
from anchorlab.training.trainer import TrainerSettings


def show_start(
    config: Mapping[str, Any],
    data: DataModule,
    network: RegionProposalNetwork,
    settings: TrainerSettings,
    notices: Sequence[tuple[str, str]],
) -> None:
    """What will happen: data, anchors of each level, backbone, device and precision, budget, folder."""
    size = input_size(data)
    rows = [
        ("data", f"train {_data_line(data.train_records)}; val {_data_line(data.val_records)}"),
        ("", f"{data.root}; resized to {_resize_line(data)}, batches of {data.batch_size}{_left_out(data)}"),
        *_anchor_rows(network, size),
        ("backbone", _backbone_line(config["backbone"], network)),
        ("device", _device_line(settings)),
        ("budget", _budget_line(settings, data)),
        *notices,
    ]
    console().print(_grid(rows))
    console().print()


def show_end(metrics: Mapping[str, float], title: str, rows: Sequence[tuple[str, str]]) -> None:
    """What came out, where it is, and what to type next."""
    console().print()
    console().print(metrics_table(metrics, title))
    console().print(_grid(rows))


def left_out(data: DataModule, folder: Path) -> list[tuple[str, str]]:
    """What the run went on without: how much of it, and where it is listed; nothing where there was none."""
    count = len(data.problems)
    problems = f"{count} problem{'s' * (count != 1)}: {folder / 'problems.txt'}"
    return [("left out", problems)] if count else []


def metrics_table(metrics: Mapping[str, float], title: str) -> Table:
    """Recall and AR at each budget, AR by object size; a dash where no object has that size."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for budget in BUDGETS:
        table.add_column(f"N={budget}", justify="right")
    for name, kind in KINDS.items():
        indent = "" if kind.area == "all" else "  "
        table.add_row(indent + kind.title, *(in_table(metrics.get(f"{name}_{budget}")) for budget in BUDGETS))
    return table


def next_steps(folder: Path, notices: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Where things are, and the commands a person wants next."""
    rows = [
        ("folder", str(folder)),
        ("pictures", f"{folder / 'figures'}: anchors, coverage, proposals_epoch_*, recall, funnel, attribution"),
    ]
    train = f"{_python()} train.py"
    return [
        *rows,
        *notices,
        ("next", f"{train} 'anchor.ratios=[0.33,0.5,1,2,3]'   (other anchors)"),
        ("", f"{train} -m anchor.k=3,6   (a sweep)"),
        ("", f"{train} data.root=<folder> backbone=efficientnet_lite0_fpn anchor=fpn   (your data)"),
    ]


def how_to_go_on(folder: Path) -> str:
    """What is kept of a run that broke off, and what to type to go on with it."""
    kept = position(folder)
    if kept is None:
        return "no checkpoint was written yet, so start it anew"
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return f"{kept} is kept; go on with {_python()} train.py resume={shown}, or the same command and resume=auto"


def _python() -> str:
    """This interpreter as one types it here: below the working folder by its path, else the one that is active."""
    path, here = Path(sys.executable), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else "python"


def _anchor_rows(network: RegionProposalNetwork, size: tuple[int, int]) -> Iterable[tuple[str, str]]:
    total, grids = 0, feature_grids(network, size)
    grid = network.anchors
    for level, (stride, (rows, columns), shapes) in enumerate(
        zip(network.backbone.strides, grids, grid.shapes, strict=True)
    ):
        total += rows * columns * len(shapes)
        sizes = sorted({f"{area:.0f}" for area in shapes.prod(1).sqrt().tolist()}, key=int)
        ratios = sorted({f"{ratio:.2g}" for ratio in (shapes[:, 1] / shapes[:, 0]).tolist()}, key=float)
        yield (
            "anchors" if level == 0 else "",
            f"stride {stride}: {rows} x {columns} locations, k = {len(shapes)}: "
            f"sizes {', '.join(sizes)} px, ratios {', '.join(ratios)} (height / width)",
        )
    yield "", f"{total:,} anchors on an input of {size[0]} x {size[1]} (height x width)"


def _data_line(records: Sequence[Record]) -> str:
    boxes = sum(len(record.boxes) for record in records)
    ignored = sum(int(record.ignore.sum()) for record in records)
    return f"{len(records):,} images, {boxes - ignored:,} boxes, {ignored:,} ignored"


def _resize_line(data: DataModule) -> str:
    sides = [f"{name} side {side} px" for name, side in (("short", data.short), ("long", data.long)) if side]
    return ", ".join(sides)


def _left_out(data: DataModule) -> str:
    count = len(data.problems)
    return f"; {count} problem{'s' * (count != 1)} left out, see problems.txt" if count else ""


def _backbone_line(backbone: Mapping[str, Any], network: RegionProposalNetwork) -> str:
    name = backbone["_target_"].rsplit(".", 1)[-1]
    parts = [str(backbone[key]) for key in ("name",) if key in backbone]
    weights = f", weights {backbone['weights']}" if "weights" in backbone else ", from random weights"
    parameters = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return f"{' '.join([name, *parts])}{weights}; {parameters / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained"


def _device_line(settings: TrainerSettings) -> str:
    kept = ", freed memory kept" if settings.keep_memory else ""
    sampled = ", head at sampled anchors alone" if settings.sampled_only else ""
    layout = ", channels_last" if settings.channels_last else ""
    processes = f"{settings.devices} x " if settings.devices != 1 else ""
    precision = {32: "float32", 16: "float16", "bf16": "bf16"}[settings.precision]
    threads = f"{settings.threads} thread{'s' * (settings.threads != 1)}"
    return f"{processes}{settings.accelerator}, {precision}{layout}, {threads}{kept}{sampled}"


def _budget_line(settings: TrainerSettings, data: DataModule) -> str:
    steps = max(1, len(data.train_records) // data.batch_size) * settings.epochs // settings.accumulate
    if settings.max_steps is not None:
        steps = min(steps, settings.max_steps)
    return f"{settings.epochs} epochs, {steps:,} steps"


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, escape(text))  # a folder may be called `[x]`
    return table
