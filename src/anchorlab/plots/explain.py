"""Figures of explain.py: one for each step from pixels to recall, with a title that says what it shows."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from anchorlab.plots.boxes import FOUND_IOU, draw, proposals_figure, show
from anchorlab.plots.palette import FOUND, INK, LEVELS, PAPER, SKY_BLUE, SOFT_LINE
from anchorlab.plots.scene import Scene
from anchorlab.rpn.boxes import pairwise_iou


@dataclass(frozen=True)
class Place:
    """One location of one level: its cell, and the numbers of its k anchors in `Anchors.boxes`."""

    level: int
    row: int
    column: int
    anchors: Tensor  # (k,) int64


@dataclass(frozen=True)
class Steps:
    """All steps of one image; boxes in pixels of the network's input."""

    image: np.ndarray  # (H, W, 3) uint8, as the network sees it
    original: tuple[int, int]
    name: str
    strides: tuple[int, ...]
    features: list[np.ndarray]  # (h, w) mean absolute activation of each level
    channels: int
    place: Place
    scores: np.ndarray  # (k, 1 or 2): one logit, or background and object
    probability_maps: np.ndarray  # (k, h, w) of the level: P(object) at every location
    logits: np.ndarray  # (k,)
    deltas: np.ndarray  # (k, 4)
    anchors: np.ndarray  # (k, 4)
    decoded: np.ndarray  # (k, 4), not clipped
    num_anchors: int  # A
    candidates: np.ndarray  # (N, 4) clipped, best first
    proposals: np.ndarray  # (P, 4) best first
    proposal_scores: np.ndarray  # (P,)
    selection: str  # how candidates become proposals, in a few words
    looked_at_again: bool  # whether the candidates are those of a second look
    truth: np.ndarray | None  # (G, 4); None: not known
    top: int

    @property
    def found(self) -> np.ndarray:
        """(G,) bool: boxes that one of the `top` proposals overlaps by IoU 0.5."""
        assert self.truth is not None
        iou = pairwise_iou(torch.as_tensor(self.truth), torch.as_tensor(self.proposals[: self.top]))
        return (iou >= FOUND_IOU).any(dim=1).numpy()


WIDTH = 9.0


def all_of(steps: Steps) -> dict[str, Figure]:
    """Every step's picture by name, in order."""
    pictures = {
        "image": image(steps),
        "features": features(steps),
        "anchors": anchors(steps),
        "numbers": numbers(steps),
        "scores": scores(steps),
        "decoded": decoded(steps),
        "nms": nms(steps),
    }
    return pictures | ({} if steps.truth is None else {"recall": recall(steps)})


def image(steps: Steps) -> Figure:
    height, width = steps.image.shape[:2]
    figure, axis = _one(steps)
    show(axis, steps.image, "")
    _title(axis, f"1. What the network sees: {width} x {height} pixels, of {steps.original[1]} x {steps.original[0]}")
    return figure


def features(steps: Steps) -> Figure:
    """Each level's map over its own grid, the followed cell marked."""
    figure, axes = _several(steps, len(steps.features))
    for level, (axis, feature) in enumerate(zip(axes, steps.features, strict=False)):
        low, high = np.percentile(feature, (2, 98))  # else the padded border takes all colours
        axis.axis("on")
        axis.imshow(feature, cmap="magma", vmin=low, vmax=high)
        axis.set_title(f"stride {steps.strides[level]}\n{feature.shape[0]} x {feature.shape[1]} cells", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
        if level == steps.place.level:
            place = steps.place
            axis.plot(place.column, place.row, "o", markersize=11, markerfacecolor="none", color=SKY_BLUE, mew=2)
    text = f"2. The backbone makes maps of {steps.channels} channels (here their mean activation); one cell is followed"
    figure.suptitle(text, fontsize=11)
    return figure


def anchors(steps: Steps) -> Figure:
    figure, axis = _one(steps)
    place, stride = steps.place, steps.strides[steps.place.level]
    show(axis, steps.image, "")
    _title(axis, f"3. Row {place.row}, column {place.column} at stride {stride}: its k = {len(steps.anchors)} anchors")
    for j, box in enumerate(steps.anchors):
        draw(axis, box, _colour(j), 2.2)
    _legend(axis, [f"j = {j}: {_sides(box)}" for j, box in enumerate(steps.anchors)], steps)
    x, y = _centre(steps)
    axis.add_patch(
        Rectangle((x - stride / 2, y - stride / 2), stride, stride, fill=False, edgecolor="white", linewidth=1)
    )
    axis.plot(x, y, "+", markersize=12, color="white", mew=2)
    _around(axis, steps, steps.anchors)
    return figure


def numbers(steps: Steps) -> Figure:
    """The head's numbers of the location as a table, one row an anchor."""
    names, rows = number_columns(steps)
    figure = Figure(figsize=(WIDTH, 0.7 + 0.36 * (len(rows) + 1)), layout="constrained")
    axis = figure.subplots()
    axis.axis("off")
    per_anchor, k = steps.scores.shape[1], len(rows)
    _title(axis, f"4. {per_anchor * k} scores and {4 * k} deltas: all the head says about this location")
    table = axis.table(cellText=rows, colLabels=list(names), loc="center", cellLoc="right")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.55)
    table.auto_set_column_width(list(range(len(names))))
    for (row, _), cell in table.get_celld().items():
        cell.set_edgecolor(SOFT_LINE)
        if row == 0:
            cell.set_facecolor(PAPER)
            cell.set_text_props(weight="bold")
        else:
            cell.get_text().set_color(_colour(row - 1) if cell is table[row, 0] else INK)
    return figure


def scores(steps: Steps) -> Figure:
    """P(object) of every location of the level, a map for each anchor."""
    figure, axes = _several(steps, len(steps.anchors))
    height, width = steps.image.shape[:2]
    stride, place = steps.strides[steps.place.level], steps.place
    for j, (axis, chances) in enumerate(zip(axes, steps.probability_maps, strict=False)):
        show(axis, steps.image, "")
        axis.set_title(f"j = {j}: {_sides(steps.anchors[j])}", fontsize=9, color=_colour(j))
        x, y = _centre(steps)
        left, top = x - (place.column + 0.5) * stride, y - (place.row + 0.5) * stride
        rows, columns = chances.shape
        extent = (left, left + columns * stride, top + rows * stride, top)
        axis.imshow(chances, cmap="magma", vmin=0, vmax=1, alpha=0.75, extent=extent)
        axis.set(xlim=(0, width), ylim=(height, 0))
        axis.plot(x, y, "o", markersize=11, markerfacecolor="none", color=SKY_BLUE, mew=2)
    figure.suptitle(f"5. The same at every location of stride {stride}: P(object), bright is 1", fontsize=11)
    return figure


def decoded(steps: Steps) -> Figure:
    figure, axis = _one(steps)
    show(axis, steps.image, "")
    _title(axis, "6. Decoded: the deltas move and stretch each anchor (dashed) to a box (solid)")
    for j, (anchor, box) in enumerate(zip(steps.anchors, steps.decoded, strict=True)):
        draw(axis, anchor, _colour(j), 1.6, "--")
        draw(axis, box, _colour(j), 3.0)
    probability = 1 / (1 + np.exp(-steps.logits))
    _legend(axis, [f"j = {j}: object {p:.3f}" for j, p in enumerate(probability)], steps)
    _close_to(axis, steps, np.concatenate((steps.anchors, steps.decoded)))
    return figure


def nms(steps: Steps) -> Figure:
    """The best candidates, many of one object, beside as many proposals after NMS."""
    figure = Figure(figsize=(WIDTH * 1.3, WIDTH * 0.65 * _shape(steps) + 0.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = min(100, len(steps.candidates))
    for axis, boxes, text in (
        (left, steps.candidates[:shown], f"the best {shown} of {len(steps.candidates):,} candidates"),
        (right, steps.proposals[: steps.top], f"after {steps.selection}: the best {steps.top}"),
    ):
        axis.axis("off")
        show(axis, steps.image, "")
        axis.set_title(text, fontsize=10)
        for box in boxes:
            draw(axis, box, FOUND, 1.4)
    figure.suptitle("7. Non-maximum suppression: of boxes that say the same, the best stays", fontsize=11)
    return figure


def recall(steps: Steps) -> Figure:
    assert steps.truth is not None
    scene = Scene(steps.image, steps.truth, steps.proposals, steps.proposal_scores, steps.name)
    figure = proposals_figure([scene], steps.top)
    figure.set_size_inches(WIDTH, WIDTH * _shape(steps) + 0.6)
    found = int(steps.found.sum())
    _title(
        figure.axes[0],
        f"8. recall@{steps.top}: {found} of {len(steps.truth)} boxes are found, {found / max(len(steps.truth), 1):.2f}",
    )
    return figure


def number_columns(steps: Steps) -> tuple[list[str], list[list[str]]]:
    """Names and rows of the table of one location's numbers."""
    two = steps.scores.shape[1] == 2
    names = ["anchor (w x h)", *(["background", "object"] if two else []), "logit", "P(object)"]
    names += ["t_x", "t_y", "t_w", "t_h", "box (w x h)"]
    rows = []
    for j, anchor in enumerate(steps.anchors):
        logit = float(steps.logits[j])
        row = [f"{j}: {_sides(anchor)}", *(f"{score:+.2f}" for score in (steps.scores[j] if two else []))]
        row += [f"{logit:+.2f}", f"{1 / (1 + np.exp(-logit)):.3f}", *(f"{delta:+.3f}" for delta in steps.deltas[j])]
        rows.append([*row, _sides(steps.decoded[j])])
    return names, rows


def _several(steps: Steps, count: int) -> tuple[Figure, list[Axes]]:
    """Room for so many pictures of the image's shape, three in a row."""
    columns = min(3, count)
    rows = -(-count // columns)
    size = (WIDTH, 0.5 + rows * (0.45 + WIDTH / columns * _shape(steps)))
    figure = Figure(figsize=size, layout="constrained")
    axes = list(np.ravel(figure.subplots(rows, columns)))
    for axis in axes:
        axis.axis("off")
    return figure, axes


def _one(steps: Steps) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, WIDTH * _shape(steps) + 0.4), layout="constrained")
    axis = figure.subplots()
    axis.axis("off")
    return figure, axis


def _shape(steps: Steps) -> float:
    height, width = steps.image.shape[:2]
    return height / width


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=11)


def _legend(axis: Axes, texts: list[str], steps: Steps) -> None:
    handles = [Line2D([], [], color=_colour(j), linewidth=2.4, label=text) for j, text in enumerate(texts)]
    axis.legend(handles=handles, loc="upper right", fontsize=9, framealpha=0.9)


def _around(axis: Axes, steps: Steps, boxes: np.ndarray) -> None:
    """Show the image and, in grey, what of the boxes lies beyond it."""
    height, width = steps.image.shape[:2]
    axis.set_facecolor(SOFT_LINE)
    left, top = np.minimum(boxes[:, :2].min(0), 0) - 4
    right, bottom = np.maximum(boxes[:, 2:].max(0), (width, height)) + 4
    axis.set(xlim=(left, right), ylim=(bottom, top))


def _close_to(axis: Axes, steps: Steps, boxes: np.ndarray) -> None:
    """Show the boxes with half as much around them, in the image's shape."""
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    (x, y), (width, height) = (low + high) / 2, (high - low) * 1.5
    width = max(width, height / _shape(steps))
    height = width * _shape(steps)
    axis.set_facecolor(SOFT_LINE)
    axis.set(xlim=(x - width / 2, x + width / 2), ylim=(y + height / 2, y - height / 2))


def _centre(steps: Steps) -> tuple[float, float]:
    x1, y1, x2, y2 = steps.anchors.mean(0)
    return float(x1 + x2) / 2, float(y1 + y2) / 2


def _sides(box: np.ndarray) -> str:
    return f"{box[2] - box[0]:.0f} x {box[3] - box[1]:.0f}"


def _colour(j: int) -> str:
    return LEVELS[j % len(LEVELS)]
