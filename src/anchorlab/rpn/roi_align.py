"""RoIAlign over a pyramid: the features inside each box, of the level that suits its size; learns nothing.

He et al. 2017, "Mask R-CNN", section 3, with one place in the middle of each bin: torchvision's `roi_align` with
`sampling_ratio=1, aligned=True`. All levels are looked up at once, so that a graph of fixed shapes can hold it.

B images | C channels | H, W a level's grid | R boxes of all images | p x p bins of a box
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from anchorlab.rpn.sampled_conv import rows_of

CELLS = 8
"""How many cells a box should be across where it is looked at: as many as the anchors of an FPN are."""


def level_of(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """(R,) int64, the level on which each box (R, 4) is nearest to `CELLS` cells across, by the root of its area.

    FPN's rule (Lin et al. 2017, equation 1), whose own canonical size of 224 pixels on stride 16 asks for 14 cells and
    more: on images of 400 pixels it would send nearly all boxes to the finest level.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    cells = sides.prod(dim=1).sqrt() / (CELLS * strides[0])
    # A level is twice as coarse as the one before.
    return cells.log2().round().long().clamp(0, len(strides) - 1)


def roi_align(maps: Sequence[Tensor], strides: Sequence[int], image: Tensor, boxes: Tensor, bins: int) -> Tensor:
    """Features (R, p * p, C), bin by bin in rows, of boxes (R, 4) in pixels of the input, inside their images.

    maps: (B, C, H, W) of each level, of the given strides. image: (R,) int64, of the batch.
    """
    level = level_of(boxes, strides)
    height, width, first, stride = (
        _of_level(numbers, level)
        for numbers in (
            [feature.shape[-2] for feature in maps],
            [feature.shape[-1] for feature in maps],
            _first_rows(maps),
            strides,
        )
    )
    rows, row_shares = _between(boxes[:, 1], boxes[:, 3], stride, height, bins)  # (R, 2, p) each
    columns, column_shares = _between(boxes[:, 0], boxes[:, 2], stride, width, bins)
    start = (first + image * height * width)[:, None, None]
    table = torch.cat([rows_of(feature) for feature in maps])  # (all cells of all images, C)
    corners = []
    for down in (0, 1):
        for right in (0, 1):
            cell = start + rows[:, down, :, None] * width[:, None, None] + columns[:, right, None, :]  # (R, p, p)
            share = row_shares[:, down, :, None] * column_shares[:, right, None, :]
            corners.append(table[cell.flatten(1)] * share.flatten(1)[..., None].to(table.dtype))
    return corners[0] + corners[1] + corners[2] + corners[3]


def _between(low: Tensor, high: Tensor, stride: Tensor, cells: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The two cells (R, 2, p) next to the middle of each bin along one axis, and the share of each in the value."""
    middle = (torch.arange(bins, device=low.device) + 0.5) / bins
    place = (low[:, None] + (high - low)[:, None] * middle) / stride[:, None] - 0.5  # 0: the middle of the first cell
    last = cells[:, None] - 1
    place = place.clamp(min=0).minimum(last)
    before = place.floor()
    share = place - before
    before = before.long()
    return torch.stack((before, (before + 1).minimum(last)), dim=1), torch.stack((1 - share, share), dim=1)


def _of_level(numbers: Sequence[int], level: Tensor) -> Tensor:
    """(R,) the number of each box's level; not by a tensor of numbers, as a graph does not know them yet."""
    chosen = torch.zeros_like(level)
    for i, number in enumerate(numbers):
        chosen = torch.where(level == i, number, chosen)
    return chosen


def _first_rows(maps: Sequence[Tensor]) -> list[int]:
    """Where each level begins in a table of the cells of all levels."""
    first = [0]
    for feature in maps[:-1]:
        first.append(first[-1] + feature.shape[0] * feature.shape[-2] * feature.shape[-1])
    return first
