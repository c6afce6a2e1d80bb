"""Centre-region assigner: labels anchors by whether they lie in the middle of a box; ignores their overlap.

Wang et al. 2019, "Region Proposal by Guided Anchoring" (section 3.5) and Vu et al. 2019, "Cascade RPN" (section 3.2,
the anchor-free metric), whose first stage has one square anchor per location: no overlap of such an anchor says how
well it will fit once it has been moved.

A: anchors of one image | G: boxes | H, W: rows and columns of a level, k: its shapes
"""

import math

import torch
from torch import Tensor

from anchorlab.rpn.anchor_iou import LevelGrid
from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.assigners.max_iou import IGNORE, OBJECT, Assignment, all_background, leave_out
from anchorlab.rpn.boxes import area
from anchorlab.signatures import PositiveShare, checked


@checked
class CentreRegionAssigner:
    """An anchor is OBJECT if it is centred in the middle of a box that belongs to its level.

    A box belongs to the level whose anchors are nearest to it in size (square root of area, by ratio). Of overlapping
    boxes the smallest takes the location, and between equals the one listed first.

    centre: side of the middle, as a share of the box's (0.2 in both papers). The location nearest to the box's centre
        always belongs to it.
    ignored: side of the region that is IGNORE unless it is OBJECT, on the box's level and its neighbours (0.5).
    ignore_iof: as `MaxIoUAssigner`'s.

    All shapes of a location are treated alike. Raises ValueError for settings out of range.
    """

    needs_grid = True

    def __init__(
        self, centre: PositiveShare = 0.2, ignored: PositiveShare = 0.5, ignore_iof: PositiveShare | None = 0.5
    ) -> None:
        if ignored < centre:
            raise ValueError(f"ignored={ignored} is below centre={centre}: raise the first or lower the second.")
        self.centre = centre
        self.ignored = ignored
        self.ignore_iof = ignore_iof

    def __call__(self, anchors: Anchors, boxes: Tensor, ignore: Tensor, image_size: tuple[int, int]) -> Assignment:
        """As `MaxIoUAssigner.__call__`; the image's size plays no part."""
        boxes = boxes.float()
        assignment = all_background(anchors)
        labels, indices = (_maps(values, anchors) for values in assignment)
        listed = (~ignore).nonzero().squeeze(1).flip(0)
        # The smallest comes last and stays.
        order = listed[area(boxes[listed]).argsort(descending=True, stable=True)]
        level_of = _levels(anchors, boxes[order])
        for box, level in zip(boxes[order], level_of, strict=True):
            for near in range(max(level - 1, 0), min(level + 2, len(labels))):
                labels[near][_window(anchors.levels[near], box, self.ignored)] = IGNORE
        for index, level in zip(order.tolist(), level_of, strict=True):
            window = _window(anchors.levels[level], boxes[index], self.centre, at_least_one=True)
            labels[level][window], indices[level][window] = OBJECT, index
        leave_out(assignment.label, anchors, boxes, ignore, self.ignore_iof)
        return assignment


def _maps(values: Tensor, anchors: Anchors) -> list[Tensor]:
    """Values (A,) as a view (H, W, k) of each level."""
    grids = [(len(level.y1), *level.x1.shape) for level in anchors.levels]
    return [part.view(grid) for part, grid in zip(values.split(anchors.num_per_level), grids, strict=True)]


def _levels(anchors: Anchors, boxes: Tensor) -> list[int]:
    """The level of each box; of two that are equally near the finer one."""
    sizes = [area(level.boxes()[: level.x1.shape[1]]).log().mean() / 2 for level in anchors.levels]
    own = area(boxes).clamp(min=1e-6).log() / 2  # (G,)
    return (own[:, None] - torch.stack(sizes)).abs().argmin(dim=1).tolist()


def _window(level: LevelGrid, box: Tensor, share: float, at_least_one: bool = False) -> tuple[slice, slice]:
    """The rows and columns whose centres lie within `share` of the box's sides about its middle."""
    x1, y1, x2, y2 = box.tolist()
    rows = _cells(level.y1, level.y2, (y1, y2), share, at_least_one)
    return rows, _cells(level.x1, level.x2, (x1, x2), share, at_least_one)


def _cells(low: Tensor, high: Tensor, side: tuple[float, float], share: float, at_least_one: bool) -> slice:
    first, last = _middle(low, high, 0), _middle(low, high, -1)
    step = (last - first) / max(len(low) - 1, 1) or 1.0
    centre, reach = (side[0] + side[1]) / 2, share * (side[1] - side[0]) / 2
    begin = max(math.ceil((centre - reach - first) / step), 0)
    end = min(math.floor((centre + reach - first) / step) + 1, len(low))
    if at_least_one and begin >= end:
        begin = min(max(round((centre - first) / step), 0), len(low) - 1)
        end = begin + 1
    return slice(begin, max(begin, end))


def _middle(low: Tensor, high: Tensor, cell: int) -> float:
    """Where the anchors of a cell are centred, along one axis."""
    return (low[cell, 0].item() + high[cell, 0].item()) / 2
