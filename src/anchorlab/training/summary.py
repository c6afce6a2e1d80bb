"""Summaries of a run on the console: its plan before training, and its results after."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anchorlab.analysis.ground_truth import feature_grids, input_size
from anchorlab.build import build
from anchorlab.console import Column, Facts, TextTable, command, console, of_groups, typed
from anchorlab.data.module import DataModule
from anchorlab.data.sample import Record
from anchorlab.metrics.from_ranks import BUDGETS, KINDS, in_table
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.runs.record import read_run
from anchorlab.training.resume import position
from anchorlab.training.trainer import TrainerSettings

SPARE = {50: 2, 300: 1}
"""Budgets that a narrow terminal leaves out, the highest number first."""
STUDIED = (
    *("data", "backbone", "head", "coder", "assigner", "sampler", "loss", "objectness", "quality", "refine"),
    *("proposals", "experiment"),
)
"""Groups that a study of other anchors takes over from a training: its boxes, at the network's size, and its network,
but for a cascade, whose anchors no probe foretells.
"""


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
        ("backbone", _backbone_line(config, network)),
        *_device_rows(settings),
        ("budget", _budget_line(settings, data)),
        *notices,
    ]
    console().print(Facts(rows))
    console().print()


def show_end(metrics: Mapping[str, float], title: str, rows: Sequence[tuple[str, str]]) -> None:
    """What came out, where it is, and what to type next."""
    console().print()
    console().print(metrics_table(metrics, title))
    console().print(Facts(rows))


def left_out(data: DataModule, folder: Path) -> list[tuple[str, str]]:
    """What the run went on without: how much of it, and where it is listed; nothing where there was none."""
    count = len(data.problems)
    problems = f"{count} problem{'s' * (count != 1)}: {folder / 'problems.txt'}"
    return [("left out", problems)] if count else []


def metrics_table(metrics: Mapping[str, float], title: str) -> TextTable:
    """Recall and AR at each budget, AR by object size; a dash where no object has that size."""
    budgets = [Column(f"N={budget}", spare=SPARE.get(budget, 0)) for budget in BUDGETS]
    table = TextTable([Column("", left=True), *budgets], title)
    for name, kind in KINDS.items():
        indent = "" if kind.area == "all" else "  "
        table.add(indent + kind.title, *(in_table(metrics.get(f"{name}_{budget}")) for budget in BUDGETS))
    return table


def next_steps(
    folder: Path, config: Mapping[str, Any], overrides: Sequence[str], uncovered: bool
) -> list[tuple[str, str]]:
    """Commands that go on from the run: with its data and settings, to be pasted.

    Args:
        overrides: what was typed behind the command that started the run.
        uncovered: whether too few of the training boxes have an anchor that fits.
    """
    steps = []
    if uncovered:
        steps.append(_study(config, overrides))
    if len(list(folder.parent.glob("*/run.json"))) > 1:
        steps.append(f"compare the runs of this folder with: {command('compare', [], f'runs={typed(folder.parent)}')}")
    steps += [
        f"train with other anchors, all else the same, with: {command('train', *_other_anchors(config, overrides))}",
        f"find boxes in your images with: {command('propose', [], f'run={typed(folder)}', 'source=<folder>')}",
    ]
    if not any(word.startswith("data") for word in overrides):
        steps.append(f"train on your data with: {command('train', overrides, 'data.root=<folder>')}")
    return [("next" if at == 0 else "", step) for at, step in enumerate(steps)]


def _study(config: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """A study of other anchors, by what counts for the run's assigner."""
    kept = of_groups(overrides, STUDIED)
    if isinstance(build(config["assigner"], "assigner"), MaxIoUAssigner):
        return f"see which anchors fit these boxes with: {command('study', kept, 'fit=true')}"
    return f"see which anchors should train best with: {command('study', kept, 'probe=true')}"


def _other_anchors(config: Mapping[str, Any], overrides: Sequence[str]) -> tuple[list[str], str, str]:
    """The overrides of a sweep around the anchors of the run: of their scale, or of k where they have none."""
    anchor = config["anchor"]
    scale = anchor.get("scale")
    if scale is not None and anchor.get("sizes") is None and anchor.get("shapes") is None:
        kept = [word for word in overrides if word.partition("=")[0] != "anchor.scale"]
        return kept, "-m", f"anchor.scale={scale / 2:g},{scale:g},{scale * 2:g}"
    kept = [word for word in overrides if word.partition("=")[0].partition(".")[0] != "anchor"]
    return kept, "-m", "anchor=fit anchor.k=3,6,9"


def how_to_go_on(folder: Path) -> str:
    """What is kept of a run that broke off, and what to type to go on with it."""
    if _is_finished(folder):
        return f"the run is finished, its results are in {folder}"
    kept = position(folder)
    if kept is None:
        return "no checkpoint was written yet, so start it anew"
    resuming = command("train", [], f"resume={typed(folder)}")
    return f"{kept} is kept; go on with {resuming}, or the same command and resume=auto"


def _is_finished(folder: Path) -> bool:
    try:
        return read_run(folder).status == "finished"
    except ValueError:  # it broke off before its record began
        return False


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


def _backbone_line(config: Mapping[str, Any], network: RegionProposalNetwork) -> str:
    backbone = config["backbone"]
    name = backbone["_target_"].rsplit(".", 1)[-1]
    parts = [str(backbone[key]) for key in ("name",) if key in backbone]
    weights = f", weights {backbone['weights']}" if "weights" in backbone else ", from random weights"
    if config.get("start") is not None:
        weights = ", weights of start"
    parameters = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return f"{' '.join([name, *parts])}{weights}; {parameters / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained"


def _device_rows(settings: TrainerSettings) -> Iterable[tuple[str, str]]:
    layout = ", channels_last" if settings.channels_last else ""
    count = settings.devices * settings.num_nodes if isinstance(settings.devices, int) else settings.devices
    processes = f"{count} x " if count != 1 else ""
    precision = {32: "float32", 16: "float16", "bf16": "bf16"}[settings.precision]
    threads = f"{settings.threads} thread{'s' * (settings.threads != 1)}"
    yield "device", f"{processes}{settings.accelerator}, {precision}{layout}, {threads}"
    if settings.sampled_only:
        yield "", "the head runs only at the anchors that are drawn for the loss: faster, with the same loss"


def _budget_line(settings: TrainerSettings, data: DataModule) -> str:
    steps = max(1, len(data.train_records) // data.batch_size) * settings.epochs // settings.accumulate
    if settings.max_steps is not None:
        steps = min(steps, settings.max_steps)
    return f"{settings.epochs} epochs, {steps:,} steps"
