"""Adaptive Training Sample Selection: labels anchors by the mean and spread of their IoU with each box; no fixed IoU.

Zhang et al. 2020, "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
Selection", algorithm 1. Of every level and shape the few anchors nearest to a box are its candidates. The mean of their
IoUs says how well anchors suit the box, their standard deviation whether one level suits it better than the others;
both together are the threshold.

A: anchors of one image | G: boxes | H, W: rows and columns of a level, k: its shapes | C: candidates of a box on a
level, over all levels in `_Candidates`
"""

from typing import NamedTuple

import torch
from torch import Tensor

from anchorlab.rpn.anchor_iou import LevelGrid
from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.assigners.max_iou import OBJECT, Assignment, all_background, leave_out
from anchorlab.rpn.boxes import paired_iou
from anchorlab.signatures import Count, PositiveShare, checked


@checked
class ATSSAssigner:
    """An anchor is OBJECT if it is a candidate, its IoU reaches the box's threshold, and its centre lies in the box.

    candidates: how many locations per level are nearest to a box, by the distance of centres (9 in the paper, which
        finds 7 to 17 alike). Each shape of a location is a candidate.
    ignore_iof: as `MaxIoUAssigner`'s.

    All others are BACKGROUND: there is nothing between. An anchor of several boxes takes that of the highest IoU, and
    between equals the one listed first. A box none of whose candidates is centred in it is nobody's.
    Raises ValueError for settings out of range.
    """

    needs_grid = True

    def __init__(self, candidates: Count = 9, ignore_iof: PositiveShare | None = 0.5) -> None:
        self.candidates = candidates
        self.ignore_iof = ignore_iof

    def __call__(self, anchors: Anchors, boxes: Tensor, ignore: Tensor, image_size: tuple[int, int]) -> Assignment:
        """As `MaxIoUAssigner.__call__`; the image's size plays no part."""
        boxes = boxes.float()
        label, box_index = all_background(anchors)
        objects = (~ignore).nonzero().squeeze(1)
        if len(objects):
            anchor, box, iou = _selected(anchors, boxes[objects], self.candidates)
            label[anchor] = OBJECT
            best = iou.new_zeros(len(label)).scatter_reduce_(0, anchor, iou, "amax")
            first = iou == best[anchor]
            box_index.scatter_reduce_(0, anchor[first], objects[box[first]], "amin", include_self=False)
        leave_out(label, anchors, boxes, ignore, self.ignore_iof)
        return Assignment(label, box_index)


class _Candidates(NamedTuple):
    anchor: Tensor  # (G, C) int64
    iou: Tensor  # (G, C)
    centred: Tensor  # (G, C) bool, whether the anchor's centre lies in the box


def _selected(anchors: Anchors, boxes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Anchor, box and IoU of all pairs that the rule selects."""
    candidates = _candidates(anchors, boxes, count)
    iou = candidates.iou.double()  # the mean of equal numbers must not exceed them
    several = iou.shape[1] > 1
    threshold = iou.mean(dim=1) + (iou.std(dim=1) if several else 0)
    box, column = (candidates.centred & (iou >= threshold[:, None])).nonzero(as_tuple=True)
    return candidates.anchor[box, column], box, candidates.iou[box, column]


def _candidates(anchors: Anchors, boxes: Tensor, count: int) -> _Candidates:
    numbers, start = [], 0
    for level, total in zip(anchors.levels, anchors.num_per_level, strict=True):
        numbers.append(start + _nearest(level, boxes, count))
        start += total
    number = torch.cat(numbers, dim=1)
    found = anchors.boxes[number.flatten()]
    wanted = boxes.repeat_interleave(number.shape[1], dim=0)
    centre = (found[:, :2] + found[:, 2:]) / 2
    centred = ((centre > wanted[:, :2]) & (centre < wanted[:, 2:])).all(dim=1)
    return _Candidates(number, paired_iou(found, wanted).view(number.shape), centred.view(number.shape))


def _nearest(level: LevelGrid, boxes: Tensor, count: int) -> Tensor:
    """Of each shape the `count` anchors of the level nearest to each box, the first of equals: (G, C).

    They lie in the `count` nearest rows and columns: a location of another column has that many nearer ones in its
    own row.
    """
    shapes = level.x1.shape[1]
    columns, dx = _nearest_cells(level.x1, level.x2, boxes[:, 0::2], count)  # (G, k, c)
    rows, dy = _nearest_cells(level.y1, level.y2, boxes[:, 1::2], count)  # (G, k, r)
    away = (dy[..., :, None] ** 2 + dx[..., None, :] ** 2).flatten(2)  # (G, k, r * c)
    cell = (rows[..., :, None] * len(level.x1) + columns[..., None, :]).flatten(2)
    nearest = away.sort(dim=2, stable=True).indices[..., :count]
    shape = torch.arange(shapes, device=boxes.device)[:, None]
    return (cell.gather(2, nearest) * shapes + shape).flatten(1)


def _nearest_cells(low: Tensor, high: Tensor, sides: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Along one axis, of anchors with these edges (cells, k): the nearest cells (G, k, c), ascending, and distances.

    In float64, in which the distances of float32 centres are all but exact.
    """
    centre = (low.double() + high.double()).T / 2  # (k, cells)
    middle = sides.double().mean(dim=1)  # (G,)
    away = (centre - middle[:, None, None]).abs()  # (G, k, cells)
    nearest = away.sort(dim=2, stable=True).indices[..., :count].sort(dim=2).values
    return nearest, away.gather(2, nearest)
