"""Benchmark of how a training step's time and memory grow with image size, boxes, anchors per location and batch.

A step is forward, loss and backward on one ResNet-18-FPN; only what follows the backbone differs: AnchorLab's
head, assignment and loss, or torchvision's. One quantity moves at a time, the others stay at the base point. The
growth is named by its exponent: the slope of the straight line through the points on log-log axes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN
from torchvision.models.detection.rpn import RPNHead as TorchvisionHead

from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner
from anchorlab.rpn.backbones.backbones import ResNetFPN
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead
from anchorlab.rpn.losses.box import SmoothL1Loss
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.rpn.samplers import BalancedSampler
from benchmarks.assignment import Case, random_boxes
from benchmarks.measure import Memory, Options, Row, Timing, interleaved, parse, peak_memory, report, set_threads

SIDES = ("AnchorLab", "torchvision")
UNITS = {"image side": "pixels", "boxes": "an image", "k": "anchors a location", "batch": "images"}

# Exponents up to the number bear the name.
GROWTHS = ((0.1, "none"), (0.85, "less than linear"), (1.15, "linear"), (1.85, "more than linear"), (2.15, "quadratic"))


@dataclass(frozen=True)
class Point:
    """Square images of `side` pixels, so many in a batch, boxes on each, k anchors at a location."""

    side: int = 640
    boxes: int = 15
    k: int = 3
    batch: int = 2

    @property
    def ratios(self) -> tuple[float, ...]:
        return (0.5, 1.0, 2.0) if self.k % 3 == 0 else (1.0,)

    @property
    def octaves(self) -> int:
        return self.k // len(self.ratios)


# quantity -> (field of Point, its values)
Axes = dict[str, tuple[str, tuple[int, ...]]]
BASE, QUICK_BASE = Point(), Point(side=64, boxes=2, k=1, batch=1)
AXES: Axes = {
    "image side": ("side", (400, 640, 800, 1130, 1600)),
    "boxes": ("boxes", (1, 15, 100, 300, 1000)),
    "k": ("k", (1, 3, 9, 21, 45)),
    "batch": ("batch", (1, 2, 4, 8)),
}
QUICK_AXES: Axes = {
    "image side": ("side", (64, 96)),
    "k": ("k", (1, 3)),
}


def our_step(point: Point) -> Callable[[], Any]:
    """channels_last, and computed where the loss samples, as AnchorLab trains on a CPU."""
    backbone = ResNetFPN("resnet18", "none")
    anchors = AnchorGrid(scale=8, ratios=point.ratios, scales_per_octave=point.octaves, strides=backbone.strides)
    head = RPNHead("sigmoid", in_channels=backbone.channels, num_anchors=anchors.num_anchors)
    parts = (DeltaCoder(), MaxIoUAssigner(), BalancedSampler(), SmoothL1Loss(), ProposalSelector())
    network: Any = RegionProposalNetwork(backbone, anchors, head, *parts)
    network.to(memory_format=torch.channels_last)
    images, boxes = _inputs(point)
    images = images.contiguous(memory_format=torch.channels_last)
    ignore, sizes = [torch.zeros(len(one), dtype=torch.bool) for one in boxes], [(point.side, point.side)] * len(boxes)

    def step() -> None:
        network.zero_grad()
        generators = [torch.Generator().manual_seed(i) for i in range(len(boxes))]
        network.loss(network.pending(images), boxes, ignore, sizes, generators).total.backward()

    return step


def their_step(point: Point) -> Callable[[], Any]:
    """Contiguous, as its documentation builds it; the backbone is ours, and equal to its own."""
    backbone = ResNetFPN("resnet18", "none")
    factors = [2 ** (i / point.octaves) for i in range(point.octaves)]
    sizes = tuple(tuple(8 * stride * factor for factor in factors) for stride in backbone.strides)
    top_n = {"training": 2000, "testing": 1000}
    generator, head = AnchorGenerator(sizes, (point.ratios,) * len(sizes)), TorchvisionHead(backbone.channels, point.k)
    rpn = TorchvisionRPN(generator, head, 0.7, 0.3, 256, 0.5, top_n, top_n, 0.7)
    images, boxes = _inputs(point)
    listed = ImageList(images, [(point.side, point.side)] * len(boxes))
    targets = [{"boxes": one} for one in boxes]

    def step() -> None:
        backbone.zero_grad()
        rpn.zero_grad()
        features = {str(level): feature for level, feature in enumerate(backbone(images))}
        _, losses = rpn(listed, features, targets)
        (losses["loss_objectness"] + losses["loss_rpn_box_reg"]).backward()

    return step


def _inputs(point: Point) -> tuple[Tensor, list[Tensor]]:
    images = torch.randn(point.batch, 3, point.side, point.side, generator=torch.Generator().manual_seed(0))
    return images, [random_boxes(Case((point.side, point.side), point.k, point.boxes))] * point.batch


STEPS = {"AnchorLab": our_step, "torchvision": their_step}


@dataclass(frozen=True)
class Measured:
    """Time and memory of each side's step at one point."""

    timing: dict[str, Timing]
    memory: dict[str, Memory]


def measure(point: Point, options: Options) -> Measured:
    timing = interleaved({side: STEPS[side](point) for side in SIDES}, options.num_repeats(5))
    return Measured(timing, {side: peak_memory(STEPS[side], point) for side in SIDES})


def rows_of(axes: Axes, base: Point, options: Options) -> list[Row]:
    """One row for each point of each axis; the base point, which lies on all of them, is measured once."""
    points = {replace(base, **{field: value}): None for field, values in axes.values() for value in values}
    measured: dict[Point, Measured] = {}
    for point in points:
        print(f"{len(measured) + 1} of {len(points)}: {point}", flush=True)
        measured[point] = measure(point, options)
    return [
        _row(name, value, measured[replace(base, **{field: value})])
        for name, (field, values) in axes.items()
        for value in values
    ]


def _row(name: str, value: int, measured: Measured) -> Row:
    ours, theirs = (measured.timing[side] for side in SIDES)
    times = {f"{side} ms": measured.timing[side].ms for side in SIDES}
    mib = {f"{side} MiB": measured.memory[side].growth for side in SIDES}
    ratio = {"times faster": ours.times_faster(theirs), "in single rounds": ours.range_of_rounds(theirs)}
    return {"quantity": name, "value": value} | times | ratio | mib


def growth_rows(rows: Sequence[Row]) -> list[Row]:
    """For each quantity, side and unit: the fitted exponent, the one between the two largest points, its name."""
    found = []
    for name in dict.fromkeys(row["quantity"] for row in rows):
        here = [row for row in rows if row["quantity"] == name]
        for column in (f"{side} {unit}" for unit in ("ms", "MiB") for side in SIDES):
            values, costs = ([row[key] for row in here] for key in ("value", column))
            whole, last = exponent(values, costs), exponent(values[-2:], costs[-2:])
            exponents = {"exponent": whole, "at the largest": last, "growth there": growth(last)}
            found.append({"quantity": name, "measured": column} | exponents)
    return found


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """p of the cost ~ value^p that fits best on log-log axes."""
    return float(np.polyfit(np.log(values), np.log(np.maximum(costs, 1e-3)), 1)[0])


def growth(exponent: float) -> str:
    return next((name for limit, name in GROWTHS if exponent <= limit), "more than quadratic")


def draw(rows: Sequence[Row], growths: Sequence[Row], path: Any) -> None:
    """Time above, memory below, a column for each quantity; log-log, so that an exponent is a slope."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(row["quantity"] for row in rows))
    size = (3.6 * len(names), 6.4)
    figure, axes = plt.subplots(2, len(names), sharey="row", squeeze=False, figsize=size, layout="constrained")
    slopes = {(one["quantity"], one["measured"]): one["at the largest"] for one in growths}
    for (at, unit), (column, name) in ((u, n) for u in enumerate(("ms", "MiB")) for n in enumerate(names)):
        axis, here = axes[at][column], [row for row in rows if row["quantity"] == name]
        values = [row["value"] for row in here]
        for side, marker in zip(SIDES, "os", strict=True):
            label = f"{side}, slope {slopes[name, f'{side} {unit}']:.2f} at the right"
            axis.loglog(values, [row[f"{side} {unit}"] for row in here], marker=marker, label=label)
        axis.set_xticks(values, [str(value) for value in values])
        axis.xaxis.minorticks_off()
        axis.set(xlabel=f"{name} ({UNITS[name]})")
        if column == 0:
            axis.set(ylabel="ms a step" if unit == "ms" else "MiB a step adds")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(options: Options) -> None:
    set_threads(options.threads or 1)
    axes, base = (QUICK_AXES, QUICK_BASE) if options.quick else (AXES, BASE)
    rows = rows_of(axes, base, options)
    growths = growth_rows(rows)
    setting = {"layout": "channels_last (AnchorLab), contiguous (torchvision)", "precision": "float32"}
    setting |= {"repeats": options.num_repeats(5), "base point": str(base)}
    tell = partial(report, setting=setting, options=options)
    claim = "A training step against image size, boxes, anchors per location and batch."
    tell("scaling", claim, rows, notes=["MiB: what one step adds to the peak memory of a process of its own."])
    claim = "How a training step grows: cost ~ quantity ^ exponent."
    tell("scaling-growth", claim, growths, notes=["The plot of both tables is scaling.png."])
    if options.results is not None:
        draw(rows, growths, options.results / "scaling.png")


if __name__ == "__main__":
    main(parse(__doc__))
