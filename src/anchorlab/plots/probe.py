"""Pictures of a probe: what recall is expected of a training with each of several anchors, and how these lie among
the boxes."""

import math
from collections.abc import Collection, Mapping

import numpy as np
import torch
from matplotlib.figure import Figure

from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.plots.coverage import RATIO, SIZE, draw_boxes_and_anchors, plain_ticks, ratio_span
from anchorlab.plots.palette import BLUE, GREY, INK
from anchorlab.rpn.anchors import AnchorGrid

PANELS = 12


def candidates_figure(expected: Mapping[str, float], good: Collection[str], title: str) -> Figure:
    """Expected AR@100 of every candidate, by name, the first on top; blue: those of `good`."""
    figure = Figure(figsize=(8, 1.4 + 0.3 * len(expected)), layout="constrained")
    axis = figure.subplots()
    for place, (name, value) in enumerate(expected.items()):
        colour = BLUE if name in good else GREY
        axis.plot([0, value], [place, place], color=colour, linewidth=1)
        axis.scatter([value], [place], color=colour, s=36, zorder=2)
        axis.annotate(f"{value:.3f}", (value, place), (7, 0), textcoords="offset points", va="center", fontsize=8)
    low, high = min(expected.values()), max(expected.values())
    margin = max(high - low, 0.02)
    axis.set(
        yticks=range(len(expected)),
        yticklabels=list(expected),
        xlim=(max(low - margin / 2, 0), high + margin / 3),
        xlabel="expected AR@100 (blue: cannot be told from the best)",
        title=title,
    )
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    return figure


def shapes_figure(
    expected: Mapping[str, float], good: Collection[str], anchors: Mapping[str, AnchorGrid], truth: GroundTruth
) -> Figure:
    """A panel for each candidate, the first `PANELS`: its anchors and the boxes over size and ratio, with what is
    expected of it; blue: those of `good`."""
    shown = list(expected)[:PANELS]
    columns = math.ceil(len(shown) ** 0.5)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3.4 * columns + 0.4, 2.7 * rows + 1.0), layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False))
    sides = torch.cat([shapes.prod(1).sqrt() for name in shown for shapes in anchors[name].shapes])
    sizes = torch.cat([sides, truth.size])
    limits = {
        "xlim": (float(sizes.min()) / 1.25, float(sizes.max()) * 1.25),
        "ylim": ratio_span(truth.ratio.numpy(), *anchors.values()),
    }
    for axis, name in zip(axes, shown, strict=False):
        draw_boxes_and_anchors(axis, truth, anchors[name], GREY)
        axis.set(**limits)
        plain_ticks(axis)
        axis.set_title(f"{name}\n{expected[name]:.3f}", fontsize=8, color=BLUE if name in good else INK)
        axis.tick_params(labelsize=7)
    for axis in axes[len(shown) :]:
        axis.axis("off")
    for axis in axes[max(len(shown) - columns, 0) : len(shown)]:
        axis.tick_params(labelbottom=True)
    figure.supxlabel(SIZE, fontsize=8)
    figure.supylabel(RATIO, fontsize=8)
    rest = f"; {len(expected) - len(shown)} more are not shown" if len(expected) > len(shown) else ""
    title = "Boxes (dots), anchors (crosses, a colour a level), expected AR@100"
    figure.suptitle(f"{title}\nblue: cannot be told from the best{rest}", fontsize=9)
    return figure
