"""Figures of images with boxes: one location's anchors, proposals beside ground truth, and recall against N.

Drawn with matplotlib's Figure, without pyplot, so that no process holds figures open.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import ScalarFormatter

from anchorlab.data.batch import Batch
from anchorlab.plots.palette import FOUND, LEVELS, MISSED, PLAIN, TRUTH
from anchorlab.plots.scene import Scene
from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.boxes import pairwise_iou
from anchorlab.runs.files import whole_file

FOUND_IOU = 0.5


def anchors_figure(image: np.ndarray, anchors: Anchors, batch: Batch) -> Figure:
    """One panel a level: the grid of locations, and the k anchors of the one nearest the image's middle."""
    scale_y, scale_x = (float(scale) for scale in batch.scales[0])
    to_image = np.array([scale_x, scale_y, scale_x, scale_y])
    panels = len(anchors.levels)
    columns = min(panels, 3)
    figure, axes = grid_of_axes(panels, columns, image)
    for at, (level, axis) in enumerate(zip(anchors.levels, axes, strict=False)):
        x1, x2, y1, y2 = (side.cpu().numpy() for side in (level.x1, level.x2, level.y1, level.y2))
        column, row, count = len(x1) // 2, len(y1) // 2, x1.shape[1]
        x, y = (x1 + x2).mean(1) / 2 / scale_x, (y1 + y2).mean(1) / 2 / scale_y
        show(axis, image, f"level {at}: {len(y1)} x {len(x1)} locations, k = {count} anchors at each")
        axis.scatter(*np.meshgrid(x, y), s=3, color="white", linewidths=0)
        for j in range(count):
            box = np.array([x1[column, j], y1[row, j], x2[column, j], y2[row, j]])
            draw(axis, box / to_image, LEVELS[at % len(LEVELS)])
        axis.scatter(x[column], y[row], s=40, marker="+", color="black", linewidths=2)
    return figure


def proposals_figure(scenes: Sequence[Scene], top: int, columns: int = 2) -> Figure:
    """Boxes against the `top` proposals of each image: which were found at IoU 0.5, which were missed."""
    figure, axes = grid_of_axes(len(scenes), min(len(scenes), columns), scenes[0].image)
    for scene, axis in zip(scenes, axes, strict=False):
        proposals = scene.proposals[:top]
        iou = pairwise_iou(torch.as_tensor(scene.boxes), torch.as_tensor(proposals)).numpy()
        found = np.asarray((iou >= FOUND_IOU).any(axis=1))
        hits = np.asarray((iou >= FOUND_IOU).any(axis=0))
        show(
            axis,
            scene.image,
            f"{scene.image_id}: {found.sum()} of {len(found)} found by {len(proposals)} proposals",
        )
        for proposal, hit in zip(proposals, hits, strict=True):
            draw(axis, proposal, FOUND if hit else PLAIN, 1.2 if hit else 0.6)
        for box, is_found in zip(scene.boxes, found, strict=True):
            draw(axis, box, TRUTH if is_found else MISSED, 2.0, "-" if is_found else "--")
    figure.text(
        0.01,
        0.005,
        "box found: orange   box missed: dashed vermilion   proposal with IoU >= 0.5: blue   others: grey",
        fontsize=8,
    )
    return figure


def recall_figure(curves: dict[str, tuple[np.ndarray, np.ndarray]], title: str) -> Figure:
    """Recall against the number of proposals, a curve for each IoU; N on a logarithmic axis."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for (name, (budgets, recall)), colour in zip(curves.items(), LEVELS, strict=False):
        axis.plot(budgets, recall, label=name, color=colour)
    axis.set(xscale="log", xlabel="proposals per image N", ylabel="recall", ylim=(0, 1), title=title)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def grid_of_axes(panels: int, columns: int, image: np.ndarray) -> tuple[Figure, list[Axes]]:
    """A figure with room for `panels` images of about this shape."""
    rows = -(-panels // columns)
    height, width = image.shape[:2]
    figure = Figure(figsize=(4.5 * columns, 4.5 * rows * height / width + 0.3 * rows), layout="constrained")
    axes = list(np.ravel(figure.subplots(rows, columns)))
    for axis in axes:
        axis.axis("off")
    return figure, axes


def show(axis: Axes, image: np.ndarray, title: str) -> None:
    axis.imshow(image)
    axis.set_title(title, fontsize=8)
    height, width = image.shape[:2]
    axis.set(xlim=(0, width), ylim=(height, 0))


def draw(axis: Axes, box: np.ndarray, colour: str, width: float = 1.5, style: str = "-") -> None:
    x1, y1, x2, y2 = (float(value) for value in box)
    axis.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, linestyle=style)
    )


def save(figure: Figure, path: Path) -> Path:
    with whole_file(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix("."), dpi=110)
    return path


def proposals_picture(scene: Scene, top: int, with_truth: bool) -> Figure:
    """The `top` proposals; where boxes are known, which of them they found and which they missed."""
    if with_truth:
        return proposals_figure([scene], top)
    height, width = scene.image.shape[:2]
    figure = Figure(figsize=(7, 7 * height / width * 0.88 + 0.4), layout="constrained")
    axis = figure.subplots()
    axis.axis("off")
    boxes, scores = scene.proposals[:top], scene.scores[:top]
    show(axis, scene.image, f"{scene.image_id}: the {len(boxes)} best of {len(scene.proposals):,} proposals")
    span = Normalize(float(scores.min()), float(scores.max())) if len(scores) else None
    colours = colormaps["viridis"]
    for box, score in zip(boxes[::-1], scores[::-1], strict=True):  # the best on top
        assert span is not None
        colour = colours(0.15 + 0.85 * float(np.nan_to_num(span(score))))
        draw(axis, box, colour, 1.8)  # pyright: ignore[reportArgumentType]
    if span is not None:
        figure.colorbar(ScalarMappable(span, colours), ax=axis, shrink=0.7, label="score")
    return figure
