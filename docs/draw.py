"""Draws the pictures of docs/how-anchors-work.md with the code that trains; no data, no network, no trained weights.

One example runs through all pictures but the last: an image of 224 x 224 pixels with two objects, seen through the
paper's k = 9 anchors on a stride of 16. Its numbers are the ones worked out on the page.

k anchors per location | A anchors of the image | G boxes | boxes are xyxy in pixels
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle
from torch import Tensor

from anchorlab.data import painting
from anchorlab.data.synthetic import Recipe, SyntheticImage, draw_image
from anchorlab.plots.boxes import FOUND_IOU, draw, save, show
from anchorlab.plots.palette import BLUE, FOUND, GREEN, INK, PAPER, PLAIN, PURPLE, SKY_BLUE, TRUTH
from anchorlab.rpn.anchors import AnchorGrid, Anchors
from anchorlab.rpn.assigners.max_iou import BACKGROUND, IGNORE, OBJECT, MaxIoUAssigner
from anchorlab.rpn.boxes import pairwise_iou
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead
from anchorlab.rpn.proposals.nms import Proposals, ProposalSelector

IMAGES = Path(__file__).parent / "images"
SIZE_COLOURS = (BLUE, GREEN, PURPLE)  # anchors of 128, 256 and 512 pixels
HIDDEN, DARK_ORANGE = SKY_BLUE, "#9A6400"
TEXT, TITLE = 10.5, 11.5

SIZE, STRIDE, CELLS = (224, 224), 16, (14, 14)
BOXES = torch.tensor([[92.0, 36, 204, 188], [24, 192, 184, 220]])
ROW, COLUMN, ANCHOR = 6, 8, 1  # the location and the channel group that the page follows
SCENE, SCENE_SEED, TOP = (240, 320), 16, 30  # the last picture: its image, and how many anchors it follows


def main(folder: Path = IMAGES) -> None:
    for picture in (anchors, head, assignment, coder, proposals):
        save(picture(), folder / f"{picture.__name__}.png")


# ------------------------------------------------------------------------------------------------ the example


def paper_grid() -> AnchorGrid:
    """Three sizes in three ratios, at the middle of each cell; in whole pixels, so that all can be checked by hand."""
    return AnchorGrid([128, 256, 512], [0.5, 1, 2], rounded=True, offset=0.5, strides=[STRIDE])


def example_anchors() -> Anchors:
    return paper_grid()([CELLS], SIZE, "cpu")


def anchors_at(row: int, column: int) -> Tensor:
    """The k anchors (k, 4) of one location."""
    return example_anchors().boxes.view(*CELLS, -1, 4)[row, column]


def example_image() -> np.ndarray:
    """The image (224, 224, 3) uint8, painted with the brush of the synthetic data: one object in each of BOXES."""
    rng = np.random.default_rng(14)
    picture = painting.background(SIZE, rng)
    for kind, (x1, y1, x2, y2) in zip(("ellipse", "bar"), BOXES.int().tolist(), strict=True):
        mask = painting.rasterise(painting.outline(kind, rng), (y2 - y1, x2 - x1))
        painting.paint_object(picture, mask, (y1, x1), rng)
    return faded(painting.develop(picture, 0, rng))


def example_label() -> Tensor:
    """What the assigner makes of the example's anchors: label (H, W, k)."""
    label, _ = MaxIoUAssigner()(example_anchors(), BOXES, torch.zeros(len(BOXES), dtype=torch.bool), SIZE)
    return label.view(*CELLS, -1)


# ---------------------------------------------------------------------------------------- what an anchor means


def anchors() -> Figure:
    """Left: all locations, and the smallest anchors of one. Right: all nine anchors of it, and the image to scale."""
    figure, (near, far) = panels(2, height=5.9)
    image, boxes = example_image(), anchors_at(ROW, COLUMN).numpy()
    show(near, image, "")
    x, y = centres(boxes[:1])[0]
    near.scatter(*locations(), s=12, color="white", edgecolors=INK, linewidths=0.6)
    for axis, count in ((near, 3), (far, 9)):
        for j in range(count):
            draw(axis, boxes[j], SIZE_COLOURS[j // 3], 2.2)
        axis.scatter(x, y, s=110, marker="+", color="black", linewidths=2.2, zorder=3)
    far.imshow(image, extent=(0, SIZE[1], SIZE[0], 0))
    far.set(xlim=(x - 370, x + 370), ylim=(y + 370, y - 370))
    titled(near, "14 x 14 locations; the three smallest anchors of one")
    titled(far, "All k = 9 anchors of that location; the image to scale")
    lines = [Line2D([], [], color=colour, linewidth=2.2) for colour in SIZE_COLOURS]
    labels = [f"size {size}: ratios 0.5, 1, 2" for size in (128, 256, 512)]
    figure.legend(lines, labels, loc="outside lower center", ncols=3, fontsize=TEXT, frameon=False)
    return figure


# ------------------------------------------------------------------------------------- the path of one location


def head() -> Figure:
    """512 numbers of one location -> 18 scores and 36 deltas, computed by an untrained head from random features."""
    hidden, scores, deltas = one_location()
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(0, 122), ylim=(54, 0))
    axis.axis("off")
    feature_map(axis)
    hidden_numbers(axis, hidden)
    for end, y, text in ((19, 15, "2k = 18 scores"), (36, 40, "4k = 36 deltas")):
        arrow(axis, (42, 27.5), (58.5, end))
        write(axis, 50.8, y, f"1 x 1 convolution:\n512 → {text}")
    outputs_table(axis, scores, deltas)
    return figure


def one_location() -> tuple[Tensor, Tensor, Tensor]:
    """Hidden numbers (512,), scores (k, 2) and deltas (k, 4) of the location, from a seeded head and features."""
    torch.manual_seed(0)
    network = RPNHead("softmax", in_channels=512, num_anchors=paper_grid().num_anchors)
    features = 2 * torch.randn(1, 512, *CELLS).relu()
    with torch.no_grad():
        ((scores, deltas, _),) = network([features])
        hidden = network.conv(features)
    here = (0, slice(None), ROW, COLUMN)
    return hidden[here], scores[here].view(-1, 2), deltas[here].view(-1, 4)


def feature_map(axis: Axes) -> None:
    """The map as a block of 14 x 14 x 512 numbers, with the 3 x 3 cells that one location's convolution reads."""
    corner, side, depth = np.array([1.0, 19.5]), 16.8, np.array([7.0, -6.0])
    right, down, cell = np.array([side, 0]), np.array([0, side]), side / CELLS[0]
    for face in (
        (corner, corner + right, corner + right + down, corner + down),
        (corner, corner + depth, corner + right + depth, corner + right),
        (corner + right, corner + right + depth, corner + right + down + depth, corner + right + down),
    ):
        axis.add_patch(Polygon(np.array(face), facecolor=PAPER, edgecolor=INK, linewidth=1))
    for row in range(CELLS[0]):
        for column in range(CELLS[1]):
            near = max(abs(row - ROW), abs(column - COLUMN))
            colour = (SIZE_COLOURS[0], HIDDEN, PAPER)[min(near, 2)]
            at = corner + cell * np.array([column, row])
            axis.add_patch(Rectangle(tuple(at), cell, cell, facecolor=colour, edgecolor="#B8C4CC", linewidth=0.6))
    write(axis, 13, 9, "feature map\n14 x 14 x 512")
    write(axis, 11, 41, "location (row 6, column 8)\nand its neighbours")
    arrow(axis, tuple(corner + cell * np.array([COLUMN + 2, ROW + 0.5])), (33, 27.5))
    write(axis, 28.1, 34.5, "3 x 3\nconvolution,\nReLU")


def hidden_numbers(axis: Axes, hidden: Tensor) -> None:
    """The location's 512 numbers as a column of which the first and the last few are written out."""
    rows = [f"{value:.2f}" for value in (*hidden[:5].tolist(), *hidden[-3:].tolist())]
    rows.insert(5, "⋮")
    height, top = 3.2, 27.5 - 3.2 * len(rows) / 2
    for index, text in enumerate(rows):
        y = top + index * height
        axis.add_patch(Rectangle((33.5, y), 7.5, height, facecolor=HIDDEN, alpha=0.45, edgecolor=INK, linewidth=0.8))
        write(axis, 37.25, y + height / 2, text)
    write(axis, 37.25, top - 2.2, "512 numbers")


def outputs_table(axis: Axes, scores: Tensor, deltas: Tensor) -> None:
    """A row per channel group j: the shape it means, its two scores and their sigmoid, its four deltas."""
    columns = (62, 69, 78, 85, 92.5, 100, 106, 112, 118)
    names = ("j", "means", "backgr.", "object", "p(object)", "$t_x$", "$t_y$", "$t_w$", "$t_h$")
    top, height = 12, 4.1
    for left, right, text in ((74.2, 88.2, "18 scores"), (97, 121, "36 deltas")):
        axis.plot((left, right), (4.7, 4.7), color=INK, linewidth=1)
        write(axis, (left + right) / 2, 2.7, text, weight="bold")
    write_row(axis, columns, 7.6, names)
    probability = (scores[:, 1] - scores[:, 0]).sigmoid()
    for j, (width, tall) in enumerate(paper_grid().shapes[0].tolist()):
        y, numbers = top + j * height, (*scores[j].tolist(), probability[j].item(), *deltas[j].tolist())
        if j == ANCHOR:
            axis.add_patch(Rectangle((59.8, y - height / 2), 62, height, facecolor=SIZE_COLOURS[0], alpha=0.18))
        cells = [str(j), f"{width:.0f} x {tall:.0f}", *(f"{number:.2f}".replace("-", "−") for number in numbers)]
        write_row(axis, columns, y, cells, SIZE_COLOURS[j // 3])
    write(
        axis,
        90,
        51.5,
        "The head never sees the column “means”: assigner and coder read it into group j.",
        style="italic",
    )


def write_row(axis: Axes, columns: Sequence[float], y: float, cells: Sequence[str], shape_colour: str = INK) -> None:
    for index, (x, cell) in enumerate(zip(columns, cells, strict=True)):
        write(axis, x, y, cell, color=shape_colour if index == 1 else INK)


def write(axis: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axis.text(x, y, text, ha="center", va="center", fontsize=TEXT, **style)


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 14}
    axis.annotate("", xy=end, xytext=start, arrowprops=style, zorder=4)


# --------------------------------------------------------------------------------------------------- assignment


def assignment() -> Figure:
    """The label of each location's three smallest anchors, a panel for each shape; no larger anchor is OBJECT."""
    figure, axes = panels(3, height=5.1)
    image, label, boxes = example_image(), example_label(), example_anchors().boxes.view(*CELLS, -1, 4)
    for j, axis in enumerate(axes):
        show(axis, image, "")
        for box in BOXES.numpy():
            draw(axis, box, TRUTH, 2.8)
        for box in boxes[..., j, :][label[..., j] == OBJECT].numpy():
            draw(axis, box, FOUND, 1.3, "--")
        for value, style in LABEL_STYLES.items():
            here = (label[..., j] == value).flatten().numpy()
            axis.scatter(*(side[here] for side in locations()), **style, zorder=3)
        counts = ", ".join(f"{(label[..., j] == value).sum()} {name}" for value, name in LABEL_NAMES.items())
        width, height = paper_grid().shapes[0][j].tolist()
        titled(axis, f"j = {j}: {width:.0f} x {height:.0f} pixels\n{counts}")
    figure.legend(*assignment_key(), loc="outside lower center", ncols=5, fontsize=TEXT, frameon=False)
    return figure


LABEL_NAMES = {OBJECT: "object", IGNORE: "ignored", BACKGROUND: "background"}
LABEL_STYLES = {
    BACKGROUND: {"s": 7, "color": INK, "linewidths": 0},
    IGNORE: {"s": 34, "color": "white", "edgecolors": INK, "linewidths": 1},
    OBJECT: {"s": 60, "color": FOUND, "edgecolors": "white", "linewidths": 1},
}


def assignment_key() -> tuple[list[Line2D], list[str]]:
    marks = [
        Line2D([], [], color=TRUTH, linewidth=2.8),
        Line2D([], [], color=FOUND, linestyle="", marker="o", markersize=8),
        Line2D([], [], color=FOUND, linewidth=1.3, linestyle="--"),
        Line2D([], [], linestyle="", marker="o", markersize=6, markerfacecolor="white", markeredgecolor=INK),
        Line2D([], [], color=INK, linestyle="", marker="o", markersize=3),
    ]
    return marks, ["box", "anchor is object", "its outline", "anchor is ignored", "anchor is background"]


# -------------------------------------------------------------------------------------------------------- coder


def coder() -> Figure:
    """An anchor, the box that it regresses, and the four deltas that lead from one to the other."""
    figure, (picture, formulas) = panels(2, height=5.6, width_ratios=(1, 0.85))
    anchor, box = anchors_at(ROW, COLUMN)[ANCHOR], BOXES[0]
    show(picture, example_image(), "")
    picture.set(xlim=(38, 214), ylim=(212, 22))
    for rectangle, colour, style in ((anchor, SIZE_COLOURS[0], "--"), (box, TRUTH, "-")):
        draw(picture, rectangle.numpy(), colour, 2.6, style)
    (x_a, y_a), (x, y) = centres(torch.stack((anchor, box)).numpy())
    arrow(picture, (x_a, y_a), (x, y_a))
    arrow(picture, (x, y_a), (x, y))
    write(picture, 82, 46, "anchor", color=SIZE_COLOURS[0])
    write(picture, 197, 182, "box", color=DARK_ORANGE)
    write(picture, (x_a + x) / 2, y_a - 5, r"$t_x w_a$ = 12")
    write(picture, x + 17, (y_a + y) / 2, r"$t_y h_a$ = 8")
    dimensions(picture, anchor, SIZE_COLOURS[0], 196, 62, ("$w_a$ = 128", "$h_a$ = 128"))
    dimensions(picture, box, DARK_ORANGE, 205, 48, ("$w$ = 112", "$h$ = 152"))
    write_formulas(formulas, DeltaCoder().encode(anchor, box).tolist())
    return figure


def dimensions(axis: Axes, box: Tensor, colour: str, below: float, beside: float, names: tuple[str, str]) -> None:
    """Width and height of a box as measures beside it, at y = below and x = beside."""
    x1, y1, x2, y2 = box.tolist()
    plate = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    for start, end, name, turn in (
        ((x1, below), (x2, below), names[0], 0),
        ((beside, y1), (beside, y2), names[1], 90),
    ):
        style = {"arrowstyle": "<|-|>", "color": colour, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
        axis.annotate("", xy=end, xytext=start, arrowprops=style)
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        axis.text(*middle, name, ha="center", va="center", rotation=turn, fontsize=TEXT, color=colour, bbox=plate)


def write_formulas(axis: Axes, deltas: Sequence[float]) -> None:
    t_x, t_y, t_w, t_h = (f"{delta:.4f}".replace("-", "−") for delta in deltas)
    lines = (
        ("encode: the target of the loss", None),
        (r"$t_x = (x - x_a)\,/\,w_a$ = (148 − 136) / 128", t_x),
        (r"$t_y = (y - y_a)\,/\,h_a$ = (112 − 104) / 128", t_y),
        (r"$t_w = \log(w\,/\,w_a)$ = log(112 / 128)", t_w),
        (r"$t_h = \log(h\,/\,h_a)$ = log(152 / 128)", t_h),
        ("decode: the way back, to a proposal", None),
        (r"$x = t_x w_a + x_a$ = 12 + 136", "148"),
        (r"$y = t_y h_a + y_a$ = 8 + 104", "112"),
        (r"$w = w_a\,\exp(t_w)$ = 128 × 0.875", "112"),
        (r"$h = h_a\,\exp(t_h)$ = 128 × 1.1875", "152"),
    )
    axis.set(xlim=(0, 1), ylim=(len(lines) + 0.8, -0.6))
    for index, (text, result) in enumerate(lines):
        y = index + 0.8 * (index >= 5)
        axis.text(0.02, y, text, fontsize=TITLE + 1, va="center", weight="bold" if result is None else "normal")
        if result is not None:
            axis.text(0.99, y, f"= {result}", fontsize=TITLE + 1, va="center", ha="right")


# ---------------------------------------------------------------------------------------------------- proposals


def proposals() -> Figure:
    """The best anchors, what their deltas make of them, and what NMS leaves; predictions are made up from the boxes."""
    recipe = Recipe(SCENE, (4, 4), (44, 110), (0.5, 1, 2), 0.1, ("ellipse", "bar", "blob", "ring"), 0, 2, 0)
    scene = draw_image(recipe, np.random.default_rng(SCENE_SEED))
    grid = AnchorGrid([32, 64, 128], offset=0.5, strides=[STRIDE])([(15, 20)], SCENE, "cpu")
    logits, deltas = imagined_predictions(grid.boxes, torch.as_tensor(scene.boxes).float())
    best = grid.boxes[logits.topk(TOP).indices]
    decoded, kept = (select(grid, logits, deltas, nms_iou).boxes for nms_iou in (1.0, 0.7))
    figure, axes = panels(3, height=3.9)
    names = f"1. the {TOP} best-scored anchors", "2. decoded and clipped", f"3. after NMS at IoU 0.7: {len(kept)} left"
    for axis, boxes, name in zip(axes, (best, decoded, kept), names, strict=True):
        draw_against(axis, scene, boxes)
        titled(axis, name)
    lines = [Line2D([], [], color=colour, linewidth=2) for colour in (TRUTH, FOUND, PLAIN)]
    labels = ("box of an object", "IoU of at least 0.5 with a box", "less")
    figure.legend(lines, labels, loc="outside lower center", ncols=3, fontsize=TEXT, frameon=False)
    return figure


def imagined_predictions(anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (A,) and deltas (A, 4) of an imagined trained network: those of the nearest box, plus seeded noise."""
    generator = torch.Generator().manual_seed(0)
    iou, nearest = pairwise_iou(anchors, boxes).max(dim=1)
    logits = 8 * (iou - 0.5) + torch.randn(iou.shape, generator=generator)
    deltas = DeltaCoder().encode(anchors, boxes[nearest])
    return logits, deltas + 0.08 * torch.randn(deltas.shape, generator=generator)


def select(grid: Anchors, logits: Tensor, deltas: Tensor, nms_iou: float) -> Proposals:
    selector = ProposalSelector(pre_nms_top_n=TOP, nms_iou=nms_iou)
    return selector(logits[None], deltas[None], grid, DeltaCoder(), [SCENE])[0]


def draw_against(axis: Axes, scene: SyntheticImage, boxes: Tensor) -> None:
    show(axis, faded(scene.image), "")
    near = (pairwise_iou(boxes, torch.as_tensor(scene.boxes)) >= FOUND_IOU).any(dim=1)
    for box, is_near in zip(boxes.numpy(), near.tolist(), strict=True):
        draw(axis, box, FOUND if is_near else PLAIN, 1.2)
    for box in scene.boxes:
        draw(axis, box, TRUTH, 2.6)


# ------------------------------------------------------------------------------------------------------ helpers


def panels(count: int, height: float, width_ratios: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    """A figure as wide as a page with `count` panels side by side, without axes."""
    figure = Figure(figsize=(12, height), layout="constrained")
    axes = list(np.ravel(figure.subplots(1, count, width_ratios=width_ratios)))
    for axis in axes:
        axis.axis("off")
    return figure, axes


def titled(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=TITLE)


def faded(image: np.ndarray) -> np.ndarray:
    """The image nearer to white, so that lines stand out on it."""
    return (0.6 * image + 0.4 * 255).astype(np.uint8)


def centres(boxes: np.ndarray) -> np.ndarray:
    """x and y (N, 2) of the middles of boxes (N, 4)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def locations() -> tuple[np.ndarray, np.ndarray]:
    """x and y (H W,) of all locations of the example, row by row."""
    middles = centres(example_anchors().boxes.view(*CELLS, -1, 4)[:, :, ANCHOR].reshape(-1, 4).numpy())
    return middles[:, 0], middles[:, 1]


if __name__ == "__main__":
    main()
