"""Max-IoU assigner: labels each anchor by its best IoU and matches it to that box; samples nothing.

The rule of Faster R-CNN (section 3.1.2). An anchor is OBJECT if its IoU with some box is at least
`foreground_iou`, or if it is the best anchor (or tied for best) of some box; BACKGROUND if its IoU with every
box is below `background_iou`; otherwise IGNORE, and it takes no part in the loss.

A: anchors of one image over all levels, G: boxes of the image, P: pairs of an anchor and a box.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from anchorlab.rpn.anchor_iou import Pairs
from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.boxes import Region, inside, pairwise_iou
from anchorlab.signatures import NotNegative, PositiveShare, Share, checked

OBJECT, BACKGROUND, IGNORE = 1, 0, -1

# Anchors of low quality are compared with all boxes, in parts of so many IoUs: a box for which very many
# anchors tie must not bring back the (anchors x boxes) matrix.
MAX_IOUS = 1 << 20


class Assignment(NamedTuple):
    """label (A,) int8: OBJECT, BACKGROUND or IGNORE; box_index (A,) int64: the box of an OBJECT, else 0."""

    label: Tensor
    box_index: Tensor


class Assigner(Protocol):
    """A rule that labels the anchors of one image."""

    needs_grid: bool
    """Whether it reads rows and columns of the anchors: refined anchors have none."""

    def __call__(self, anchors: Anchors, boxes: Tensor, ignore: Tensor, image_size: tuple[int, int]) -> Assignment:
        """As `MaxIoUAssigner.__call__`."""
        ...


@checked
class MaxIoUAssigner:
    """Assigns by IoU, found through the anchors' lattice instead of an (A, G) matrix.

    foreground_iou, background_iou: the thresholds above, background_iou <= foreground_iou.
    low_quality: anchors tied for a box's best IoU become OBJECT however low it is. Each regresses its *own*
        best box, which may be another one, as in torchvision and Detectron2.
    low_quality_floor: only where that best IoU is above this number. null is torchvision's rule, without a
        floor: a box that no anchor touches (best IoU 0) makes every anchor OBJECT.
    ignore_iof: anchors with at least this share of their own area in an ignored region become IGNORE,
        unless they are OBJECT. null: ignored regions count for nothing.
    border: anchors that reach more than this many pixels beyond the image are taken out before matching and
        become IGNORE (the paper: 0). null: all anchors take part.

    Between boxes of equal IoU the one listed first is taken. Raises ValueError for settings out of range.
    """

    needs_grid = False

    def __init__(
        self,
        foreground_iou: PositiveShare = 0.7,
        background_iou: Share = 0.3,
        low_quality: bool = True,
        low_quality_floor: Share | None = 0.0,
        ignore_iof: PositiveShare | None = 0.5,
        border: NotNegative | None = None,
    ) -> None:
        if background_iou > foreground_iou:
            raise ValueError(
                f"background_iou={background_iou:g} is above foreground_iou={foreground_iou:g}: an anchor would be "
                "both; lower the first or raise the second."
            )
        self.foreground_iou = foreground_iou
        self.background_iou = background_iou
        self.low_quality = low_quality
        self.low_quality_floor = low_quality_floor
        self.ignore_iof = ignore_iof
        self.border = border

    def __call__(self, anchors: Anchors, boxes: Tensor, ignore: Tensor, image_size: tuple[int, int]) -> Assignment:
        """Assigns the anchors of one image.

        boxes: (G, 4), pixels of the network's input; ignore: (G,) bool, regions that are neither object nor
        background; image_size: (height, width) of the image itself, without padding.
        `box_index` counts all G boxes.
        """
        boxes = boxes.float()
        objects = (~ignore).nonzero().squeeze(1)
        region = self._region(image_size)
        label, box_index = self._match(anchors, boxes[objects], region)
        if len(objects) < len(boxes):
            positive = (label == OBJECT).nonzero().squeeze(1)
            box_index[positive] = objects[box_index[positive]]
        leave_out(label, anchors, boxes, ignore, self.ignore_iof)
        if region is not None:
            label[~inside(anchors.boxes, region)] = IGNORE
        return Assignment(label, box_index)

    def _region(self, image_size: tuple[int, int]) -> Region | None:
        if self.border is None:
            return None
        height, width = image_size
        return (-self.border, -self.border, width + self.border, height + self.border)

    def _match(self, anchors: Anchors, boxes: Tensor, region: Region | None) -> Assignment:
        """The anchors in the region, by their IoU with `boxes` (none ignored)."""
        label, box_index = all_background(anchors)
        if len(boxes) == 0:
            return Assignment(label, box_index)
        best = anchors.lattice.best_iou(boxes, region)
        goal = self._low_quality_goal(best)
        # Best anchors may lie below the background threshold: the pairs must hold them, too.
        pairs = anchors.lattice.pairs_above(boxes, goal.clamp(max=self.background_iou), region)
        iou = best.new_zeros(len(label)).scatter_reduce_(0, pairs.anchor, pairs.overlap, "amax")
        label[pairs.anchor[pairs.overlap >= self.background_iou]] = IGNORE
        label[pairs.anchor[pairs.overlap >= self.foreground_iou]] = OBJECT
        tied = pairs.anchor[pairs.overlap >= goal.index_select(0, pairs.box)]
        if self.low_quality and self.low_quality_floor is None and bool((best == 0).any()):
            tied = inside(anchors.boxes, region).nonzero().squeeze(1)
        label[tied] = OBJECT
        _point_to_best(box_index, pairs, iou, label)
        # Below the background threshold an anchor's best box may be missing among the pairs.
        low = tied[iou[tied] < self.background_iou]
        box_index[low] = _first_best(anchors.boxes[low], boxes)
        return Assignment(label, box_index)

    def _low_quality_goal(self, best: Tensor) -> Tensor:
        """The IoU (G,) with a box that makes an anchor OBJECT however low: the box's best, or infinity."""
        floor = 0.0 if self.low_quality_floor is None else self.low_quality_floor
        return torch.where((best > floor) & self.low_quality, best, torch.inf)


def yardstick(assigner: Assigner) -> MaxIoUAssigner:
    """The rule that coverage is measured by: the assigner itself, or the default where it has no IoU thresholds."""
    return assigner if isinstance(assigner, MaxIoUAssigner) else MaxIoUAssigner()


def all_background(anchors: Anchors) -> Assignment:
    """What every rule starts from: nothing is an object yet."""
    label = torch.full((len(anchors.boxes),), BACKGROUND, dtype=torch.int8, device=anchors.boxes.device)
    return Assignment(label, torch.zeros_like(label, dtype=torch.int64))


def leave_out(label: Tensor, anchors: Anchors, boxes: Tensor, ignore: Tensor, iof: float | None) -> None:
    """Write IGNORE into `label` (A,) where the share `iof` of an anchor lies in an ignored box, but for OBJECT.

    boxes: (G, 4), ignore: (G,) bool. iof None: ignored boxes count for nothing.
    """
    if iof is not None and bool(ignore.any()):
        anchor = anchors.lattice.pairs_inside(boxes[ignore], iof).anchor
        label[anchor] = label[anchor].where(label[anchor] == OBJECT, IGNORE)


def best_boxes(anchors: Anchors, boxes: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors (n,), ascending, whose IoU with some of the boxes (G, 4) is at least `least` > 0; box (n,) and IoU (n,).

    Between boxes of equal IoU the one listed first is taken.
    """
    if len(boxes) == 0:
        none = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return none, none, boxes.new_zeros(0)
    pairs = anchors.lattice.pairs_above(boxes.float(), boxes.new_full((len(boxes),), least, dtype=torch.float32))
    anchor, row = pairs.anchor.unique(return_inverse=True)
    iou = pairs.overlap.new_zeros(len(anchor)).scatter_reduce_(0, row, pairs.overlap, "amax")
    box = torch.full_like(anchor, len(boxes))
    best = pairs.overlap == iou[row]
    return anchor, box.scatter_reduce_(0, row[best], pairs.box[best], "amin"), iou


def _point_to_best(box_index: Tensor, pairs: Pairs, iou: Tensor, label: Tensor) -> None:
    """Write into `box_index` (A,) the first box with which an OBJECT has its best IoU, `iou` (A,)."""
    objects = (label.index_select(0, pairs.anchor) == OBJECT).nonzero().squeeze(1)
    anchor, box, overlap = (field.index_select(0, objects) for field in pairs)
    best = overlap == iou[anchor]
    box_index.scatter_reduce_(0, anchor[best], box[best], "amin", include_self=False)


def _first_best(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The box with the best IoU (n,) for each of a few anchors (n, 4), the first of equals."""
    parts = anchors.split(max(1, MAX_IOUS // len(boxes)))
    return torch.cat([pairwise_iou(part, boxes).argmax(dim=1) for part in parts])
