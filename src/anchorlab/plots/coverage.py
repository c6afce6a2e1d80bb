"""Figures of a study: coverage over size and ratio, coverage against k, and the worst-covered boxes.

matplotlib's Figure without pyplot, so that no process holds figures open.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from anchorlab.analysis.coverage import Coverage, cover
from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.data.decode import decode
from anchorlab.data.sample import Record
from anchorlab.plots.boxes import draw
from anchorlab.plots.palette import FOUND, LEVELS, TRUTH
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner
from anchorlab.rpn.boxes import pairwise_iou

SIZE_CELLS, RATIO_CELLS, PLACES = 48, 32, 12
"""The map's columns and rows, and random places that each of its cells is tried at."""

MAX_DOTS = 3000
SIZE, RATIO = "size: square root of area, input pixels", "ratio: height / width"


def coverage_map(coverage: Coverage, title: str) -> Figure:
    """The best IoU that a box of each size and ratio finds, over random places; the boxes and the anchors on top.

    For the most common image size; white where no box of that shape fits into it. The black line is foreground_iou.
    """
    truth, anchors = coverage.truth, coverage.anchors
    size, ratio = truth.size.numpy(), truth.ratio.numpy()
    sizes = np.geomspace(min(6.0, size.min(initial=6.0)), 1.1 * max(_largest(truth), 7.0), SIZE_CELLS + 1)
    ratios = np.geomspace(*ratio_span(ratio, anchors), RATIO_CELLS + 1)
    iou = mean_iou_map(truth, anchors, coverage.assigner, _middles(sizes), _middles(ratios))
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axis = figure.subplots()
    mesh = axis.pcolormesh(sizes, ratios, iou, cmap="viridis", vmin=0, vmax=1, shading="flat")
    figure.colorbar(mesh, label="best IoU, mean over places", pad=0.01)
    threshold = coverage.assigner.foreground_iou
    if np.nanmin(iou) < threshold < np.nanmax(iou):
        axis.contour(_middles(sizes), _middles(ratios), iou, levels=[threshold], colors="black", linewidths=1.2)
    draw_boxes_and_anchors(axis, truth, anchors, "white")
    axis.set(
        xlabel=SIZE,
        ylabel=RATIO,
        xlim=(sizes[0], sizes[-1]),
        ylim=(ratios[0], ratios[-1]),
        title=title,
    )
    plain_ticks(axis)
    axis.legend(loc="upper center", ncols=6, fontsize=7, bbox_to_anchor=(0.5, -0.13), frameon=False)
    return figure


def mean_iou_map(
    truth: GroundTruth, anchors: AnchorGrid, assigner: MaxIoUAssigner, sizes: np.ndarray, ratios: np.ndarray
) -> np.ndarray:
    """(R, S) mean best IoU of boxes of each ratio and size at random places of the most common image; NaN: no room."""
    common, count = torch.unique(truth.sizes, dim=0, return_counts=True)
    size = common[count.argmax()]
    image = int((truth.sizes == size).all(dim=1).nonzero()[0])
    height, width = (float(side) for side in size)
    root = np.sqrt(ratios)[:, None, None]
    tall, wide = np.broadcast_arrays(sizes[:, None] * root, sizes[:, None] / root)  # (R, S, 1)
    places = np.random.default_rng(0).random((2, *tall.shape[:2], PLACES))
    left, top = (width - wide) * places[0], (height - tall) * places[1]
    boxes = np.stack(np.broadcast_arrays(left, top, left + wide, top + tall), axis=-1).reshape(-1, 4)
    here = torch.zeros(len(boxes), dtype=torch.int64)
    tried = GroundTruth(
        boxes=torch.from_numpy(boxes.astype(np.float32)),
        image=here,
        sizes=truth.sizes[image : image + 1],
        padded=truth.padded[image : image + 1],
        grids=truth.grids[image : image + 1],
    )
    best = cover(tried, anchors, assigner).best.numpy().reshape(*tall.shape[:2], PLACES).mean(axis=-1)
    return np.where((tall <= height)[..., 0] & (wide <= width)[..., 0], best, np.nan)


def knee_figure(curves: Mapping[str, Mapping[int, float]], knee: int | None, title: str) -> Figure:
    """Coverage against k, a curve for each method; a line at the k beyond which more anchors gain little."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    markers = "osD^v<>"
    for (name, curve), marker in zip(curves.items(), markers * 3, strict=False):
        ours = name.startswith("fitted")
        axis.plot(
            list(curve),
            list(curve.values()),
            marker=marker,
            label=name,
            linewidth=2 if ours else 1,
            linestyle="-" if ours else "--",
        )
    if knee is not None:
        axis.axvline(knee, color="black", linewidth=0.8, linestyle=":")
        axis.annotate(f" knee: k = {knee}", (knee, 0.02), xycoords=("data", "axes fraction"), fontsize=8)
    axis.set(xlabel="anchors per location k", ylabel="share of boxes covered", title=title)
    axis.set_xticks(sorted({k for curve in curves.values() for k in curve}))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def knee(curve: Mapping[int, float]) -> int | None:
    """The k farthest above the straight line from the first point to the last; None for fewer than three points."""
    if len(curve) < 3:
        return None
    ks = np.array(sorted(curve), dtype=float)
    values = np.array([curve[int(k)] for k in ks])
    rise = values[-1] - values[0]
    if rise <= 0:
        return int(ks[0])
    above = (values - values[0]) / rise - (ks - ks[0]) / (ks[-1] - ks[0])
    return int(ks[above.argmax()])


def worst_figure(coverage: Coverage, records: Sequence[Record], count: int) -> Figure | None:
    """The worst-covered box of each of up to `count` images, on its image, with the best anchor that it has.

    None without boxes. Decodes these images and no others.
    """
    chosen = _one_per_image(coverage, count)
    if not chosen:
        return None
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.1 * rows), layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns))
    for axis in axes:
        axis.axis("off")
    for axis, g in zip(axes, chosen, strict=False):
        _draw_worst(axis, coverage, records[int(coverage.truth.image[g])], g)
    figure.suptitle("Worst-covered boxes (solid) and the best anchor of each (dashed)", fontsize=10)
    return figure


def _one_per_image(coverage: Coverage, count: int) -> list[int]:
    found: dict[int, int] = {}
    for g in coverage.best.argsort(stable=True).tolist():
        if len(found) == count:
            break
        found.setdefault(int(coverage.truth.image[g]), g)
    return list(found.values())


def _draw_worst(axis: Axes, coverage: Coverage, record: Record, g: int) -> None:
    truth = coverage.truth
    image = int(truth.image[g])
    box = truth.boxes[g]
    height, width = truth.sizes[image].tolist()
    axis.imshow(decode(record).image, extent=(0, width, height, 0))
    draw(axis, best_anchor(coverage, g).numpy(), FOUND, style="--")
    draw(axis, box.numpy(), TRUTH)
    wide, tall = (box[2:] - box[:2]).tolist()
    axis.set(xlim=(0, width), ylim=(height, 0))
    axis.set_title(f"{record.image_id}: {wide:.0f} x {tall:.0f} px, best IoU {coverage.best[g]:.2f}", fontsize=8)


def best_anchor(coverage: Coverage, g: int) -> torch.Tensor:
    """The anchor (4,) that has the best IoU with box `g`, found among all of its image."""
    truth = coverage.truth
    image = int(truth.image[g])
    grids = [(rows, columns) for rows, columns in truth.grids[image].tolist()]
    height, width = truth.padded[image].tolist()
    anchors = coverage.anchors(grids, (height, width), "cpu").boxes
    iou = pairwise_iou(truth.boxes[g][None], anchors)[0]
    border = coverage.assigner.border
    if border is not None:
        limit = truth.sizes[image].flip(0) + border
        iou = iou * ((anchors[:, :2] >= -border) & (anchors[:, 2:] <= limit)).all(dim=1)
    return anchors[iou.argmax()]


def draw_boxes_and_anchors(axis: Axes, truth: GroundTruth, anchors: AnchorGrid, colour: str) -> None:
    """Boxes as dots, at most `MAX_DOTS`, anchors as crosses, a colour a level, over size and ratio."""
    axis.set(xscale="log", yscale="log")
    dots = np.random.default_rng(0).permutation(len(truth))[:MAX_DOTS]
    axis.scatter(truth.size[dots], truth.ratio[dots], s=4, color=colour, alpha=0.5, linewidths=0)
    for level, (stride, shapes) in enumerate(zip(anchors.strides, anchors.shapes, strict=True)):
        width, height = shapes.unbind(1)
        axis.scatter(
            (width * height).sqrt(),
            height / width,
            s=60,
            marker="P",
            color=LEVELS[level % len(LEVELS)],
            edgecolors="white",
            linewidths=1.2,
            label=f"stride {stride}",
            clip_on=False,
            zorder=3,
        )


def _largest(truth: GroundTruth) -> float:
    """The longest side of the images."""
    return float(truth.sizes.max()) if truth.num_images else 1.0


def ratio_span(ratio: np.ndarray, *anchors: AnchorGrid) -> tuple[float, float]:
    """Ratios from smallest to largest, the same on both sides of 1: nearly all boxes, and all anchors."""
    every = torch.cat([shapes[:, 1] / shapes[:, 0] for grid in anchors for shapes in grid.shapes]).double().numpy()
    seen = np.quantile(ratio, [0.005, 0.995]) if len(ratio) else np.ones(2)
    span = 1.25 * max(3.0, *np.exp(np.abs(np.log(np.concatenate((every, seen))))))
    return 1 / span, span


def _middles(edges: np.ndarray) -> np.ndarray:
    return np.sqrt(edges[1:] * edges[:-1])


def plain_ticks(axis: Axes) -> None:
    """Powers of two, as numbers, on two logarithmic axes whose limits are set."""
    for side, ticks in ((axis.xaxis, 2.0 ** np.arange(2, 12)), (axis.yaxis, 2.0 ** np.arange(-5, 6))):
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        side.set_minor_formatter(NullFormatter())
        low, high = side.get_view_interval()
        side.set_ticks([tick for tick in ticks if low <= tick <= high])
