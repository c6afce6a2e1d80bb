"""IoU between boxes and all anchors of an image, computed from rows and columns of the grid; labels nothing.

For a given shape and box, the width of an intersection depends only on the anchor's column, its height only
on the row. So the best IoU of a box needs one row of widths and one column of heights, and all anchors with
an IoU of at least t lie in a small window. No (anchors x boxes) array is made. Every IoU comes from the
operations of `torchvision.ops.box_iou` on the coordinates of `Anchors.boxes` and equals its result bit for
bit in float32.

G: boxes, S: shapes (the anchors of one location on every level), M: cells (columns, or rows) of all shapes
one after the other, D: distinct extents of the shapes, Q: distinct (width, height) of the shapes,
n: windows, m: columns (or rows) of all windows one after the other, P: pairs of an anchor and a box.

Long gathers are `index_select`, which is several times faster on CPU than indexing by a tensor.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from anchorlab.rpn.boxes import Region, area, inside, pairwise_iof, pairwise_iou

Interval = tuple[float, float]
Sides = tuple[Tensor, Tensor]

# Windows are found by arithmetic that rounds differently from the IoU itself. This much slack in pixels is
# more than float32 loses at any coordinate below 16,384, and a candidate too many costs only its own IoU.
SLACK = 0.01

# Boxes are taken in parts of about this many overlaps, so that memory does not grow with their number.
MAX_OVERLAPS = 1 << 20


@dataclass(frozen=True, eq=False)
class LevelGrid:
    """The anchors of one level as their rows and columns, float32 pixels.

    Anchor j at (row, column) is (x1[column, j], y1[row, j], x2[column, j], y2[row, j]).
    x1, x2: (W, k), y1, y2: (H, k), evenly spaced and ascending along the first dimension.
    """

    x1: Tensor
    y1: Tensor
    x2: Tensor
    y2: Tensor

    def boxes(self) -> Tensor:
        """All boxes of the level (H W k, 4), ordered by row, column, anchor."""
        shape = (len(self.y1), *self.x1.shape)  # (H, W, k)
        x1, x2 = self.x1.expand(shape), self.x2.expand(shape)
        y1, y2 = self.y1[:, None].expand(shape), self.y2[:, None].expand(shape)
        return torch.stack((x1, y1, x2, y2), dim=-1).reshape(-1, 4)


class Pairs(NamedTuple):
    """Pairs of an anchor and a box: two indices (P,) int64, and their overlap (P,) float32 in 0..1."""

    anchor: Tensor
    box: Tensor
    overlap: Tensor


class Overlaps(Protocol):
    """What an assigner asks of anchors, of whatever arrangement; `Lattice` says what each call gives."""

    def best_iou(self, boxes: Tensor, region: Region | None = None) -> Tensor: ...

    def pairs_above(self, boxes: Tensor, threshold: Tensor, region: Region | None = None) -> Pairs: ...

    def pairs_inside(self, boxes: Tensor, threshold: float) -> Pairs: ...


class Lattice:
    """All anchors of an image, ready for comparison with boxes (G, 4) float32, numbered as `Anchors.boxes`.

    Where a region (x1, y1, x2, y2) is given, only the anchors inside it exist.
    """

    def __init__(self, levels: Sequence[LevelGrid]) -> None:
        self._columns, self._rows = _axes(levels)
        shape = torch.repeat_interleave(self._columns.num_extents)  # (D,)
        first, count = self._rows.first_extent[shape], self._rows.num_extents[shape]
        # Which distinct width and height each of the (Q,) sizes has.
        self._width, self._height = _ranges(first, count)

    def best_iou(self, boxes: Tensor, region: Region | None = None) -> Tensor:
        """The best IoU (G,) of each box over all anchors; 0 where none touches it.

        Among anchors of one width and height, IoU rises with the overlap on each axis, also after rounding:
        the best overlap on each is enough. (x2 - x1 is rounded, so that a shape has a few widths in float32.)
        """
        per_box = len(self._columns.low) + len(self._rows.low) + len(self._width)
        across, down = _intervals(region)
        anchor_area = self._columns.extent[self._width] * self._rows.extent[self._height]  # (Q,)
        best = []
        for part in boxes.split(max(1, MAX_OVERLAPS // per_box)):
            x, y = _sides(part)
            width = _best_overlaps(self._columns, x, across)[:, self._width]  # (G, Q)
            height = _best_overlaps(self._rows, y, down)[:, self._height]  # (G, Q)
            intersection = width * height
            union = area(part)[:, None] + anchor_area - intersection
            best.append((intersection / union).amax(dim=1))
        return torch.cat(best)

    def pairs_above(self, boxes: Tensor, threshold: Tensor, region: Region | None = None) -> Pairs:
        """All pairs whose IoU is at least the `threshold` (G,) of their box; thresholds are above 0."""
        # IoU >= t: the intersection is at least t / (1 + t) of the sum of both areas.
        share = (threshold / (1 + threshold))[:, None]
        windows = self._windows(boxes, share * (area(boxes)[:, None] + self._smallest_areas()))
        contacts = self._contacts(windows, boxes, region)
        intersection = contacts.intersection()
        union = contacts.of_box(area(boxes)) + contacts.anchor_area() - intersection
        return contacts.keep(intersection / union, contacts.of_box(threshold))

    def pairs_inside(self, boxes: Tensor, threshold: float) -> Pairs:
        """All pairs where at least the share `threshold` > 0 of the anchor's own area lies in the box."""
        windows = self._windows(boxes, (threshold * self._smallest_areas()).expand(len(boxes), -1))
        contacts = self._contacts(windows, boxes, region=None)
        return contacts.keep(contacts.intersection() / contacts.anchor_area(), threshold)

    def _smallest_areas(self) -> Tensor:
        """The area (S,) of the smallest anchor of each shape."""
        columns, rows = self._columns, self._rows
        return columns.extent[columns.first_extent] * rows.extent[rows.first_extent]

    def _windows(self, boxes: Tensor, intersection: Tensor) -> "_Windows":
        """Where a box and a shape can intersect in at least `intersection` (G, S) square pixels."""
        x, y = _sides(boxes)
        width, height = _longest_overlap(self._columns, x), _longest_overlap(self._rows, y)  # (G, S)
        first_column, num_columns = _span(self._columns, x, intersection / height, width)
        first_row, num_rows = _span(self._rows, y, intersection / width, height)
        box, shape = ((num_columns > 0) & (num_rows > 0)).nonzero(as_tuple=True)
        spans = (first_column, num_columns, first_row, num_rows)
        return _Windows(box, *(span[box, shape].long() for span in spans))

    def _contacts(self, windows: "_Windows", boxes: Tensor, region: Region | None) -> "_Contacts":
        """Every anchor of every window, with its box."""
        x, y = _sides(boxes[windows.box])
        across, down = _intervals(region)
        columns = _strip(self._columns, windows.first_column, windows.num_columns, x, across)
        rows = _strip(self._rows, windows.first_row, windows.num_rows, y, down)
        # Each row of a window meets each of its columns.
        count = windows.num_columns
        row, column = _ranges((count.cumsum(0) - count)[rows.window], count[rows.window])  # (P,), (P,)
        return _Contacts(windows.box[rows.window], rows, columns, row, column)


class _Axis(NamedTuple):
    """The columns, or the rows, of all shapes, one shape after the other."""

    low: Tensor  # (M,) left or upper edge of the cell's anchor
    high: Tensor  # (M,) right or lower edge
    number: Tensor  # (M,) what the cell adds to the number of an anchor
    first: Tensor  # (S,) first cell of the shape
    count: Tensor  # (S,) how many cells it has
    step: Tensor  # (S,) pixels between them
    extent: Tensor  # (D,) the shape's distinct extents, ascending
    first_extent: Tensor  # (S,) first of the shape's extents
    num_extents: Tensor  # (S,) how many it has
    extent_index: Tensor  # (M,) which extent the cell has


class _Windows(NamedTuple):
    """Rectangles of cells (n,), each of one shape, numbered along their axis, and the box they are for."""

    box: Tensor
    first_column: Tensor
    num_columns: Tensor
    first_row: Tensor
    num_rows: Tensor


class _Strip(NamedTuple):
    """The columns, or the rows, of all windows in turn (m,), and each one's overlap with its box."""

    window: Tensor
    number: Tensor
    extent: Tensor
    overlap: Tensor


class _Contacts(NamedTuple):
    """Pairs of an anchor and a box: the row and the column (P,) of the anchor within the strips."""

    row_box: Tensor
    rows: _Strip
    columns: _Strip
    row: Tensor
    column: Tensor

    def intersection(self) -> Tensor:
        width = self.columns.overlap.index_select(0, self.column)
        return width * self.rows.overlap.index_select(0, self.row)

    def anchor_area(self) -> Tensor:
        width = self.columns.extent.index_select(0, self.column)
        return width * self.rows.extent.index_select(0, self.row)

    def of_box(self, values: Tensor) -> Tensor:
        """For each pair the value of its box, from `values` (G,)."""
        return values[self.row_box].index_select(0, self.row)

    def keep(self, overlap: Tensor, threshold: Tensor | float) -> Pairs:
        """The pairs whose overlap (P,) reaches the threshold."""
        kept = (overlap >= threshold).nonzero().squeeze(1)
        row, column = self.row.index_select(0, kept), self.column.index_select(0, kept)
        anchor = self.rows.number.index_select(0, row) + self.columns.number.index_select(0, column)
        return Pairs(anchor, self.row_box.index_select(0, row), overlap.index_select(0, kept))


def _axes(levels: Sequence[LevelGrid]) -> tuple[_Axis, _Axis]:
    """Columns and rows. Anchor j at (row, column) has the number: level's start + (row W + column) k + j."""
    column_numbers, row_numbers, start = [], [], 0
    for level in levels:
        (width, k), height = level.x1.shape, len(level.y1)
        cells = torch.arange(max(width, height), device=level.x1.device)
        column_numbers.append((cells[:width, None] * k).expand(-1, k))
        row_numbers.append(start + cells[:height, None] * (width * k) + torch.arange(k, device=cells.device))
        start += height * width * k
    columns = _axis([level.x1 for level in levels], [level.x2 for level in levels], column_numbers)
    return columns, _axis([level.y1 for level in levels], [level.y2 for level in levels], row_numbers)


def _axis(low: list[Tensor], high: list[Tensor], number: list[Tensor]) -> _Axis:
    """One axis, from (cells, k) of each level."""
    counts = [len(level) for level in low for _ in range(level.shape[1])]
    count = torch.tensor(counts, device=low[0].device)
    first = count.cumsum(0) - count
    lows, highs, numbers = (torch.cat([x.T.flatten() for x in field]) for field in (low, high, number))
    step = (lows[first + count - 1] - lows[first]) / (count - 1).clamp(min=1)
    step = torch.where(count > 1, step, 1.0)  # any length will do for a single cell
    return _Axis(lows, highs, numbers, first, count, step, *_distinct_extents(highs - lows, count))


def _distinct_extents(extent: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The last four fields of `_Axis`, from the cells' extents (M,) and each shape's number of cells (S,)."""
    shape = torch.repeat_interleave(count)
    order = extent.argsort()
    order = order[shape[order].argsort(stable=True)]  # by shape, then by extent
    ordered, ordered_shape = extent[order], shape[order]
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = (ordered[1:] != ordered[:-1]) | (ordered_shape[1:] != ordered_shape[:-1])
    num_extents = torch.bincount(ordered_shape[new], minlength=len(count))
    index = torch.empty_like(order).scatter_(0, order, new.cumsum(0) - 1)
    return ordered[new], num_extents.cumsum(0) - num_extents, num_extents, index


def _sides(boxes: Tensor) -> tuple[Sides, Sides]:
    """Left and right, top and bottom of boxes (G, 4)."""
    x1, y1, x2, y2 = boxes.unbind(1)
    return (x1, x2), (y1, y2)


def _intervals(region: Region | None) -> tuple[Interval | None, Interval | None]:
    """The region's sides, if there is one."""
    return (None, None) if region is None else ((region[0], region[2]), (region[1], region[3]))


def _overlap(low: Tensor, high: Tensor, box: Sides, within: Interval | None) -> Tensor:
    """The length that anchors share with their box; 0 for anchors that reach out of the interval."""
    overlap = (torch.minimum(high, box[1]) - torch.maximum(low, box[0])).clamp_(min=0)
    return overlap if within is None else overlap * ((low >= within[0]) & (high <= within[1]))


def _best_overlaps(axis: _Axis, boxes: Sides, within: Interval | None) -> Tensor:
    """The most that each box overlaps the anchors of each distinct extent (G, D)."""
    overlap = _overlap(axis.low, axis.high, (boxes[0][:, None], boxes[1][:, None]), within)  # (G, M)
    best = overlap.new_zeros(len(overlap), len(axis.extent))
    return best.scatter_reduce_(1, axis.extent_index.expand_as(overlap), overlap, "amax")


def _longest_overlap(axis: _Axis, boxes: Sides) -> Tensor:
    """The most that each box can overlap each shape (G, S): the shorter of the two."""
    longest = axis.extent[axis.first_extent + axis.num_extents - 1]
    return torch.minimum(longest, (boxes[1] - boxes[0])[:, None])


def _span(axis: _Axis, boxes: Sides, overlap: Tensor, longest: Tensor) -> tuple[Tensor, Tensor]:
    """The cells that overlap their box by `overlap` (G, S) pixels: the first one and how many (floats)."""
    overlap = overlap - SLACK
    start, stop = boxes[0][:, None] + overlap, boxes[1][:, None] - overlap
    # Cells whose high edge is not left of `start` and whose low edge is not right of `stop`.
    begin = ((start - axis.high[axis.first]) / axis.step).ceil().clamp(min=0)
    end = ((stop - axis.low[axis.first]) / axis.step).floor().add(1).minimum(axis.count)
    number = torch.where(overlap <= longest, end - begin, 0).clamp(min=0)
    return axis.first + begin, number


def _strip(axis: _Axis, first: Tensor, count: Tensor, boxes: Sides, within: Interval | None) -> _Strip:
    window, cell = _ranges(first, count)
    low, high = axis.low.index_select(0, cell), axis.high.index_select(0, cell)
    overlap = _overlap(low, high, (boxes[0][window], boxes[1][window]), within)
    return _Strip(window, axis.number[cell], high - low, overlap)


def _ranges(first: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The ranges [first, first + count), one after the other: which one each number is from, and the number.

    first [5, 8], count [2, 3] -> [0, 0, 1, 1, 1], [5, 6, 8, 9, 10]
    """
    owner = torch.repeat_interleave(count)
    shift = first - (count.cumsum(0) - count)
    return owner, torch.arange(len(owner), device=first.device) + shift.index_select(0, owner)


class Scattered:
    """Anchors (A, 4), ready for comparison with boxes (G, 4) float32; `Lattice` says what each call gives."""

    def __init__(self, anchors: Tensor) -> None:
        self._anchors = anchors

    def best_iou(self, boxes: Tensor, region: Region | None = None) -> Tensor:
        parts = [self._iou(boxes[rows], region).amax(dim=1) for rows in self._parts(boxes)]
        return torch.cat(parts) if parts else boxes.new_zeros(0)

    def pairs_above(self, boxes: Tensor, threshold: Tensor, region: Region | None = None) -> Pairs:
        found = [
            _pairs(self._iou(boxes[rows], region), threshold[rows, None], rows.start) for rows in self._parts(boxes)
        ]
        return _together(found, boxes)

    def pairs_inside(self, boxes: Tensor, threshold: float) -> Pairs:
        found = [
            _pairs(pairwise_iof(self._anchors, boxes[rows]).nan_to_num().T, threshold, rows.start)
            for rows in self._parts(boxes)
        ]
        return _together(found, boxes)

    def _iou(self, boxes: Tensor, region: Region | None) -> Tensor:
        """(G, A); 0 for anchors outside, and for those without area."""
        return pairwise_iou(boxes, self._anchors).nan_to_num() * inside(self._anchors, region)

    def _parts(self, boxes: Tensor) -> Iterator[slice]:
        size = max(1, MAX_OVERLAPS // max(len(self._anchors), 1))
        return (slice(start, start + size) for start in range(0, len(boxes), size))


def _pairs(overlap: Tensor, threshold: Tensor | float, first: int) -> Pairs:
    """Those of (G, A) that reach the threshold; boxes are numbered from `first`."""
    box, anchor = (overlap >= threshold).nonzero(as_tuple=True)
    return Pairs(anchor, first + box, overlap[box, anchor])


def _together(parts: list[Pairs], boxes: Tensor) -> Pairs:
    if not parts:
        none = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return Pairs(none, none, boxes.new_zeros(0))
    return Pairs(*(torch.cat(field) for field in zip(*parts, strict=True)))
