"""Closed-form best IoU of boxes with one level's anchors, from each box's position in its grid cell; makes no anchors.

A shape is repeated every `step` pixels, so the best of its anchors for a box is the one whose centre is nearest on
each axis: closed form, whatever the number of cells. `rpn/anchor_iou.py` compares the boxes of one image with
all of its anchors and needs them made; here every box has its own grid, and nothing is made per image.

In float32 the anchors of one shape differ in their last bits from cell to cell. `estimate` ignores that and says how
much it may be wrong; `exact` does not, and equals brute force bit for bit.

G: boxes of all images, n: some of them, N: cells of the longest axis, D: distinct extents of a shape along an axis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.rpn.anchors import AnchorGrid, centres

Shape = tuple[float, float]

# Long arrays are taken in parts of so many numbers, which stay in the processor's cache from one step to the next.
PART = 1 << 17

# Rounding moves a side by at most half a unit in its last place, and few sides make an overlap.
ROUNDINGS = 16


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one level along one axis.

    count: (G,) int64, how many the image of each box has; step: pixels between their centres; offset: centre of the
    first one, in steps. bounds: anchors exist only from the first number to the second, which is one for each
    box (G,) float32; None: all exist.
    """

    count: Tensor
    step: int
    offset: float
    bounds: tuple[float, Tensor] | None = None


class Span(NamedTuple):
    """Boxes along one axis, (G,) each."""

    low: Tensor
    high: Tensor
    extent: Tensor
    centre: Tensor


class Spans:
    """Boxes (G, 4) float32 xyxy along both axes; made once for all levels."""

    def __init__(self, boxes: Tensor) -> None:
        x1, y1, x2, y2 = boxes.T.contiguous()
        self.x, self.y = (Span(low, high, high - low, (low + high) / 2) for low, high in ((x1, x2), (y1, y2)))
        self.area = self.x.extent * self.y.extent


class Placement:
    """Boxes on one level, whose columns and rows are given for each of them.

    A shape is (width, height) in pixels, as `AnchorGrid.shapes` has it.
    """

    def __init__(self, boxes: Spans, columns: Cells, rows: Cells) -> None:
        self._area = boxes.area
        self._x, self._y = _Axis(boxes.x, columns), _Axis(boxes.y, rows)

    def tolerance(self, shape: Shape) -> float:
        """How far `estimate` may lie from `exact`: overlap lost to rounding, as a share of the anchor's sides."""
        lost = self._x.rounding(shape[0]) / shape[0] + self._y.rounding(shape[1]) / shape[1]
        return lost + 1e-6

    def estimate(self, shape: Shape, out: Tensor) -> None:
        """Write into `out` (G,) the best IoU of each box with the anchors of a shape, give or take `tolerance`."""
        width, height = shape
        for start in range(0, len(out), PART):
            part = slice(start, start + PART)
            intersection = self._x.nominal_overlap(width, part)
            intersection *= self._y.nominal_overlap(height, part)
            union = (self._area[part] + width * height).sub_(intersection)
            torch.div(intersection, union, out=out[part])

    def exact(self, shape: Shape, boxes: Tensor) -> Tensor:
        """The best IoU (n,) of the boxes numbered `boxes` (n,): that of brute force over all anchors of the shape."""
        across, width, one_width = self._x.best_overlap(shape[0], boxes)
        down, height, one_height = self._y.best_overlap(shape[1], boxes)
        best = _iou(across * down, self._area[boxes], width * height)
        several = (~(one_width & one_height)).nonzero().squeeze(1)
        if len(several):
            best[several] = self._exact_among_extents(shape, boxes[several])
        return best

    def count_above(self, shape: Shape, threshold: float, boxes: Tensor) -> Tensor:
        """How many anchors (n,) of the shape have an IoU of at least `threshold` with each of `boxes` (n,).

        In float64 from nominal extents: an anchor within rounding of the threshold may fall on either side.
        """
        width, height = shape
        needed = threshold / (1 + threshold) * (self._area[boxes].double() + width * height)
        x, y = _Reach(self._x, width, boxes), _Reach(self._y, height, boxes)
        first, last = x.cells(needed / y.longest)
        total = torch.zeros_like(first)
        for step in range(int((last - first).max()) + 1 if len(boxes) else 0):
            column = first + step
            top, bottom = y.cells(needed / x.overlap(column))
            total += (bottom - top + 1).clamp_(min=0).where(column <= last, 0.0)
        return total.long()

    def _exact_among_extents(self, shape: Shape, boxes: Tensor) -> Tensor:
        """The same where cells of different extents come into question: the best overlap with each extent counts."""
        width, height = self._x.extents(shape[0]), self._y.extents(shape[1])
        anchor_area = width.values[:, None] * height.values  # (D, D')
        best = []
        for part in boxes.split(max(1, PART // anchor_area.numel())):
            across, down = self._x.best_overlaps(width, part), self._y.best_overlaps(height, part)
            intersection = across[:, :, None] * down[:, None]  # (n, D, D')
            best.append(_iou(intersection, self._area[part, None, None], anchor_area).flatten(1).amax(dim=1))
        return torch.cat(best)


class _Extents(NamedTuple):
    """A shape's distinct extents (D,) along an axis, and the cells next to a place that have each of them.

    Row i of the tables (N + 1, D) is for a place between cells i - 1 and i: the last cell before it and the first one
    after it, each as (low edge, high edge, number). Where there is none it lies at infinity.
    """

    nominal: float
    values: Tensor
    before: tuple[Tensor, Tensor, Tensor]
    after: tuple[Tensor, Tensor, Tensor]


class _Axis:
    """Boxes and cells along x or along y."""

    def __init__(self, span: Span, cells: Cells) -> None:
        self.span, self.cells = span, cells
        most = int(cells.count.max()) if len(cells.count) else 1
        self.centres = centres(most, cells.offset, cells.step, span.low.device)
        ends = [side.abs().max() for side in (span.low, span.high, self.centres) if len(side)]
        self._largest = float(torch.stack(ends).max())
        self._reach = None if cells.bounds else self._nearest_reach(0, cells.count - 1)

    def rounding(self, extent: float) -> float:
        """More pixels than an overlap with an anchor of this extent loses to float32."""
        return ROUNDINGS * 2.0**-23 * (self._largest + extent)

    def nominal_overlap(self, extent: float, part: slice) -> Tensor:
        """The most that anchors of an extent overlap the boxes of a part, without regard to rounding."""
        reach = self._bounded_reach(extent) if self._reach is None else self._reach
        overlap = reach[part] + extent / 2
        return torch.minimum(overlap.clamp_(0, extent), self.span.extent[part], out=overlap)

    def existing(self, extent: float, boxes: Tensor) -> tuple[int, Tensor]:
        """The first and the last cell, of boxes (n,), whose anchors of this extent exist; none where first > last."""
        last = self.cells.count[boxes] - 1
        if self.cells.bounds is None:
            return 0, last
        lowest, highest = self.cells.bounds
        first = int((self.centres - extent / 2 < lowest).sum())
        fitting = torch.searchsorted(self.centres + extent / 2, highest[boxes], right=True)
        return first, last.minimum(fitting - 1)

    def best_overlap(self, extent: float, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The most (n,) that anchors overlap their box, their extent (n,), and whether all that could have one extent.

        Those are the two cells next to the box's centre and, where anchors lie inside the box or it in them, all that
        do so.
        """
        first, last = self.existing(extent, boxes)
        low, high = self.span.low[boxes], self.span.high[boxes]
        position = self.span.centre[boxes] / self.cells.step - self.cells.offset
        cell = position.floor()
        inside = ((high - low - extent).abs() / 2 + self.rounding(extent)) / self.cells.step
        from_cell, to_cell = (position - inside).ceil().minimum(cell), (position + inside).floor().maximum(cell + 1)
        run = self._runs(extent)
        lowest, highest = self.centres - extent / 2, self.centres + extent / 2
        low_cell, high_cell = (at.long().clamp(min=first).minimum(last).clamp(min=0) for at in (cell, cell + 1))
        overlap = _overlap(lowest[low_cell], highest[low_cell], low, high)
        overlap = overlap.maximum(_overlap(lowest[high_cell], highest[high_cell], low, high))
        from_cell, to_cell = (at.long().clamp(min=first).minimum(last).clamp(min=0) for at in (from_cell, to_cell))
        return overlap * (first <= last), (highest - lowest)[low_cell], run[from_cell] == run[to_cell]

    def extents(self, extent: float) -> _Extents:
        low, high = self.centres - extent / 2, self.centres + extent / 2
        values, which = (high - low).unique(return_inverse=True)
        number = torch.arange(len(low), device=low.device)[:, None]
        has = which[:, None] == torch.arange(len(values), device=low.device)  # (N, D)
        none = number.new_full((1, len(values)), -1)
        before = torch.cat((none, number.where(has, -1))).cummax(dim=0).values
        after = torch.cat((number.where(has, len(low)), none + 1 + len(low))).flip(0).cummin(dim=0).values.flip(0)
        return _Extents(extent, values, _cells_at(before, low, high), _cells_at(after, low, high))

    def best_overlaps(self, extents: _Extents, boxes: Tensor) -> Tensor:
        """The most (n, D) that each box overlaps an anchor of each distinct extent."""
        first, last = self.existing(extents.nominal, boxes)
        place = (self.span.centre[boxes] / self.cells.step - self.cells.offset).floor().long() + 1
        low, high = self.span.low[boxes, None], self.span.high[boxes, None]
        overlaps = []
        places = place.clamp(min=0).minimum(last + 1), place.clamp(first, len(self.centres))
        for table, at in zip((extents.before, extents.after), places, strict=True):
            left, right, number = (column[at] for column in table)
            overlaps.append(_overlap(left, right, low, high) * ((number >= first) & (number <= last[:, None])))
        return torch.maximum(*overlaps)

    def _runs(self, extent: float) -> Tensor:
        """A number (N,) for each run of cells whose anchors have the same extent in float32."""
        extents = (self.centres + extent / 2) - (self.centres - extent / 2)
        changes = extents[1:] != extents[:-1]
        return torch.cat((changes.new_zeros(1), changes)).cumsum(0)

    def _bounded_reach(self, extent: float) -> Tensor:
        first, last = self.existing(extent, torch.arange(len(self.span.low), device=self.span.low.device))
        return self._nearest_reach(first, last).where(first <= last, -torch.inf)

    def _nearest_reach(self, first: int, last: Tensor) -> Tensor:
        """(G,) half of each box, less the distance of its centre from the nearest cell's.

        With half an anchor's extent added this is the overlap of the two, where neither lies inside the other.
        """
        reach = torch.empty_like(self.span.centre)
        for start in range(0, len(reach), PART):
            part = slice(start, start + PART)
            cell = (self.span.centre[part] / self.cells.step - self.cells.offset).round_()
            cell = cell.clamp_(min=first).minimum(last[part])
            away = ((cell + self.cells.offset) * self.cells.step).sub_(self.span.centre[part]).abs_()
            torch.sub(self.span.extent[part] / 2, away, out=reach[part])
        return reach


class _Reach:
    """Which cells' anchors of one extent overlap each box of a few (n,) by how much; all in float64."""

    def __init__(self, axis: _Axis, extent: float, boxes: Tensor) -> None:
        self._first, self._last = axis.existing(extent, boxes)
        self._step = axis.cells.step
        self._position = axis.span.centre[boxes].double() / axis.cells.step - axis.cells.offset
        own = axis.span.extent[boxes].double()
        self._sum = (own + extent) / 2
        self.longest = own.clamp(1e-9, extent)  # a box without extent is reached by no cell, not by NaN many

    def cells(self, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """The first and the last cell (n,) that overlap the box by `overlap` (n,) pixels; none where first > last."""
        away = (self._sum - overlap) / self._step
        first = (self._position - away).ceil_().clamp_(min=self._first)
        last = (self._position + away).floor_().minimum(self._last)
        return first, last.where(overlap <= self.longest * (1 + 1e-12), first - 1)

    def overlap(self, cell: Tensor) -> Tensor:
        """Pixels (n,); a little more than 0 where there is no overlap."""
        away = (cell - self._position).abs_() * self._step
        return (self._sum - away).minimum(self.longest).clamp_(min=1e-9)


def _overlap(low: Tensor, high: Tensor, box_low: Tensor, box_high: Tensor) -> Tensor:
    return (torch.minimum(high, box_high) - torch.maximum(low, box_low)).clamp_(min=0)


def _iou(intersection: Tensor, area: Tensor, anchor_area: Tensor) -> Tensor:
    """In the operations of `torchvision.ops.box_iou`, and in their order."""
    return intersection / (area + anchor_area - intersection)


def _cells_at(number: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The edges of numbered cells (N + 1, D); of those that do not exist, edges that overlap nothing."""
    exists = (number >= 0) & (number < len(low))
    at = number.clamp(0, len(low) - 1)
    return low[at].where(exists, torch.inf), high[at].where(exists, -torch.inf), number


@dataclass(frozen=True)
class LevelShape:
    """One shape of one level and how its anchors lie: all that a box's best IoU with it depends on."""

    level: int
    stride: int | None  # None: inferred from each image
    offset: float
    shape: Shape


def level_shapes(anchors: AnchorGrid, truth: GroundTruth) -> list[LevelShape]:
    """The shapes of all levels, finest first.

    Raises ValueError where the ground truth has another number of levels.
    """
    num_levels = truth.grids.shape[1]
    if num_levels != len(anchors.strides):
        raise ValueError(
            f"The anchors have {len(anchors.strides)} levels and the ground truth has grids of {num_levels}: "
            "make both from the same backbone."
        )
    strides = [None] * num_levels if anchors.stride == "inferred" else list(anchors.strides)
    return [
        LevelShape(level, strides[level], anchors.offset, (width, height))
        for level, shapes in enumerate(anchors.shapes)
        for width, height in shapes.tolist()
    ]


class PlacedBoxes:
    """Answers `Placement`'s questions for all boxes of a `GroundTruth`.

    border: anchors that reach more than so many pixels beyond the image do not exist, as in the assigner.
    """

    def __init__(self, truth: GroundTruth, border: float | None) -> None:
        self._truth, self._border = truth, border
        self._spans = Spans(truth.boxes)
        self._parts: dict[tuple[int, int | None, float], list[_Part]] = {}

    def __len__(self) -> int:
        return len(self._truth)

    def tolerance(self, key: LevelShape) -> float:
        return max((part.placement.tolerance(key.shape) for part in self._of(key)), default=0.0)

    def estimate(self, key: LevelShape, out: Tensor) -> None:
        """Write the best IoU (G,) with a shape, give or take `tolerance`."""
        for part in self._of(key):
            found = out if part.boxes is None else torch.empty(len(part.boxes))
            part.placement.estimate(key.shape, found)
            if part.boxes is not None:
                out[part.boxes] = found

    def exact(self, key: LevelShape, boxes: Tensor) -> Tensor:
        """The best IoU (n,) of `boxes` (n,) with a shape, as brute force finds it."""
        return self._ask(key, boxes, lambda placement, chosen: placement.exact(key.shape, chosen))

    def count_above(self, key: LevelShape, threshold: float, boxes: Tensor) -> Tensor:
        """How many anchors (n,) of a shape reach the threshold with each of `boxes` (n,)."""
        return self._ask(key, boxes, lambda placement, chosen: placement.count_above(key.shape, threshold, chosen))

    def _ask(self, key: LevelShape, boxes: Tensor, question: Callable[[Placement, Tensor], Tensor]) -> Tensor:
        parts = self._of(key)
        if parts[0].boxes is None:
            return question(parts[0].placement, boxes)
        answers = []
        for part in parts:
            local = part.number[boxes]
            mine = (local >= 0).nonzero().squeeze(1)
            answers.append((mine, question(part.placement, local[mine])))
        order = torch.cat([mine for mine, _ in answers])
        together = torch.cat([answer for _, answer in answers])
        return torch.empty_like(together).scatter_(0, order, together)

    def _of(self, key: LevelShape) -> "list[_Part]":
        place = (key.level, key.stride, key.offset)
        if place not in self._parts:
            self._parts[place] = self._place(*place)
        return self._parts[place]

    def _place(self, level: int, stride: int | None, offset: float) -> "list[_Part]":
        """One placement of all boxes; where strides are inferred, one for each pair of strides that occurs."""
        if stride is not None:
            return [_Part(None, self._placement(None, level, (stride, stride), offset))]
        steps = (self._truth.padded // self._truth.grids[:, level])[self._truth.image]  # (G, 2): down, across
        parts = []
        for down, across in steps.unique(dim=0).tolist():
            boxes = ((steps[:, 0] == down) & (steps[:, 1] == across)).nonzero().squeeze(1)
            parts.append(_Part(boxes, self._placement(boxes, level, (down, across), offset), len(self)))
        return parts or [_Part(None, self._placement(None, level, (1, 1), offset))]

    def _placement(self, boxes: Tensor | None, level: int, steps: tuple[int, int], offset: float) -> Placement:
        """Some of the boxes (None: all) on one level."""
        truth = self._truth
        image = truth.image if boxes is None else truth.image[boxes]
        spans = self._spans if boxes is None else Spans(truth.boxes[boxes])

        def cells(axis: int) -> Cells:
            bounds = None
            if self._border is not None:
                bounds = (-self._border, (truth.sizes[:, axis].double() + self._border).float()[image])
            return Cells(truth.grids[:, level, axis][image], steps[axis], offset, bounds)

        return Placement(spans, columns=cells(1), rows=cells(0))


class _Part:
    """The boxes (n,) with the same strides, None for all, and which of them each box is (-1: none)."""

    def __init__(self, boxes: Tensor | None, placement: Placement, total: int = 0) -> None:
        self.boxes, self.placement = boxes, placement
        if boxes is not None:
            self.number = torch.full((total,), -1).scatter_(0, boxes, torch.arange(len(boxes)))
