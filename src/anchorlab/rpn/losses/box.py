"""Losses of the sampled anchors: objectness and box regression; neither assigns nor samples.

S sampled anchors of the batch | P sampled positives among them
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from anchorlab.rpn.boxes import paired_iou
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.losses.objectness import BinaryCrossEntropy, ObjectnessLoss
from anchorlab.signatures import NotNegative, checked

Divisor = Literal["sampled", "budget", "locations", "positives"]

Count = float | Tensor


class LossCounts(NamedTuple):
    """What a loss may be divided by: of its batch, or where processes share a batch, the mean over them.

    Divided by that mean, the losses of the processes have as their mean, and their gradients too, what one process
    gets for the whole batch, however unevenly anchors are spread over them.
    """

    budget: Count  # anchors the sampler may take per image x images; 0 where it takes all
    locations: Count  # anchor locations (grid cells of all levels) per image x images
    sampled: Count | None = None  # anchors it took; None: S, those the loss is given
    positives: Count | None = None  # positives among them; None: P, those the loss is given
    images: Count = 1


@dataclass(frozen=True)
class Regression:
    """The boxes of the sampled positives (P): what is predicted and what should be, as deltas and as boxes."""

    deltas: Tensor  # (P, 4) predicted
    wanted: Tensor  # (P, 4) deltas that lead from the anchors to the boxes
    anchors: Tensor  # (P, 4)
    boxes: Tensor  # (P, 4) ground truth
    coder: DeltaCoder

    @cached_property
    def decoded(self) -> Tensor:
        """(P, 4) float32 predicted boxes, not clipped, with the gradient of the deltas."""
        return self.coder.decode(self.anchors, self.deltas)

    @cached_property
    def iou(self) -> Tensor:
        """(P,) of predicted and wanted boxes, without gradient."""
        return paired_iou(self.decoded.detach(), self.boxes)

    @property
    def anchor_iou(self) -> Tensor:
        """(P,) of the anchors and the wanted boxes: what the predicted boxes have before anything is learnt."""
        return paired_iou(self.anchors, self.boxes)


@checked
class RPNLoss:
    """A loss for objectness, plus a box loss that the subclass defines.

    Args:
        divisor: what the sums are divided by.
            "sampled": both by S, the anchors sampled in the batch (torchvision).
            "budget": both by the sampler's budget x images, taken or not (Detectron2: 256 x images).
            "locations": objectness by S, the box loss by the number of anchor locations (paper, equation 1,
                whose lambda is `box_weight` = 10).
            "positives": both by P, or by the number of images where that is more (RetinaNet, section 4.1): for
                samplers that take all anchors.
        box_weight, objectness_weight: factors of the two losses.
        objectness: the objectness loss; None: binary cross-entropy.

    Always float32. Non-finite predictions or targets give a non-finite loss; nothing is dropped or replaced.
    """

    def __init__(
        self,
        divisor: Divisor = "sampled",
        box_weight: NotNegative = 1.0,
        objectness_weight: NotNegative = 1.0,
        *,
        objectness: ObjectnessLoss | None = None,
    ):
        self.divisor = divisor
        self.box_weight = box_weight
        self.objectness_weight = objectness_weight
        self.objectness = BinaryCrossEntropy() if objectness is None else objectness

    def __call__(
        self, logits: Tensor, labels: Tensor, regression: Regression, counts: LossCounts
    ) -> tuple[Tensor, Tensor]:
        """Weighted objectness and box loss, two float32 scalars; zero where there is nothing to sum.

        Args:
            logits, labels: (S,), label True or 1 for object, False or 0 for background.
            regression: the P objects, in the order in which they stand among the S.
        """
        iou = torch.zeros_like(logits, dtype=torch.float32)
        if self.objectness.wants_iou:
            iou[labels.bool()] = regression.iou
        objectness = self.objectness(logits.float(), labels, iou)
        num_objectness, num_box = self._divisors(len(logits), len(regression.deltas), counts)
        box = self.box_sum(regression)
        return self.objectness_weight * objectness / num_objectness, self.box_weight * box / num_box

    def box_sum(self, regression: Regression) -> Tensor:
        """The box loss summed over the P objects."""
        raise NotImplementedError

    def _divisors(self, num_sampled: int, num_positives: int, counts: LossCounts) -> tuple[Count, Count]:
        sampled = max(num_sampled, 1) if counts.sampled is None else counts.sampled
        if self.divisor == "budget":
            return counts.budget, counts.budget
        if self.divisor == "positives":
            positives = num_positives if counts.positives is None else counts.positives
            positives = _larger(positives, counts.images)
            return positives, positives
        return sampled, counts.locations if self.divisor == "locations" else sampled


@checked
class SmoothL1Loss(RPNLoss):
    """Box loss quadratic for errors below `beta` and linear above (Fast R-CNN, equation 3, with beta 1)."""

    def __init__(
        self,
        beta: NotNegative = 1 / 9,
        divisor: Divisor = "sampled",
        box_weight: NotNegative = 1.0,
        objectness_weight: NotNegative = 1.0,
        *,
        objectness: ObjectnessLoss | None = None,
    ):
        super().__init__(divisor, box_weight, objectness_weight, objectness=objectness)
        self.beta = beta

    def box_sum(self, regression: Regression) -> Tensor:
        deltas, wanted = regression.deltas.float(), regression.wanted.float()
        return F.smooth_l1_loss(deltas, wanted, beta=self.beta, reduction="sum")


class L1Loss(RPNLoss):
    """Box loss that is linear in the error."""

    def box_sum(self, regression: Regression) -> Tensor:
        return F.l1_loss(regression.deltas.float(), regression.wanted.float(), reduction="sum")


@checked
class DecodedBoxLoss(RPNLoss):
    """A box loss that the subclass takes of decoded boxes, plus `delta_weight` times smooth L1 (beta 1) of the deltas.

    Their overlap alone hardly leads back a box that is far too large: where it is f times its object's sides, the
    gradient of its IoU falls as 1 / f^2, and beyond `coder.clip` there is none; where boxes do not touch, GIoU makes
    the predicted one grow. The error of the deltas pulls with the same force from anywhere. DETR (Carion et al.
    2020, section 3.1) adds an L1 loss to GIoU likewise.

    Args:
        delta_weight: 0 is the published loss, which a box that once got far too large does not survive.
        divisor, box_weight, objectness_weight, objectness: as `RPNLoss`.
    """

    def __init__(
        self,
        divisor: Divisor = "sampled",
        box_weight: NotNegative = 1.0,
        objectness_weight: NotNegative = 1.0,
        delta_weight: NotNegative = 0.0,
        *,
        objectness: ObjectnessLoss | None = None,
    ):
        super().__init__(divisor, box_weight, objectness_weight, objectness=objectness)
        self.delta_weight = delta_weight

    def box_sum(self, regression: Regression) -> Tensor:
        overlap = self.overlap_sum(regression)
        if self.delta_weight == 0:
            return overlap
        deltas, wanted = regression.deltas.float(), regression.wanted.float()
        return overlap + self.delta_weight * F.smooth_l1_loss(deltas, wanted, reduction="sum")

    def overlap_sum(self, regression: Regression) -> Tensor:
        """The loss of the decoded boxes summed over the P objects."""
        raise NotImplementedError


class IoULoss(DecodedBoxLoss):
    """1 - IoU of the decoded box, between 0 and 1 for each object (Cascade RPN, section 4.1, "linear" in its code).

    No gradient where the boxes do not touch.
    """

    def overlap_sum(self, regression: Regression) -> Tensor:
        return (1 - paired_iou(regression.decoded, regression.boxes)).sum()


class GIoULoss(DecodedBoxLoss):
    """1 - GIoU of the decoded box, between 0 and 2 (Rezatofighi et al. 2019, algorithm 1), by torchvision.

    The IoU, less the share of the smallest enclosing box that belongs to neither.
    """

    def overlap_sum(self, regression: Regression) -> Tensor:
        return generalized_box_iou_loss(regression.decoded, regression.boxes, reduction="sum")


class DIoULoss(DecodedBoxLoss):
    """1 - DIoU of the decoded box, between 0 and 2 (Zheng et al. 2020, equation 7), by torchvision.

    The IoU, less the squared distance of the centres over that of the enclosing box's corners.
    """

    def overlap_sum(self, regression: Regression) -> Tensor:
        return distance_box_iou_loss(regression.decoded, regression.boxes, reduction="sum")


class CIoULoss(DecodedBoxLoss):
    """1 - CIoU of the decoded box (Zheng et al. 2020, equation 10), by torchvision: DIoU, and a term for the ratio."""

    def overlap_sum(self, regression: Regression) -> Tensor:
        return complete_box_iou_loss(regression.decoded, regression.boxes, reduction="sum")


def _larger(a: Count, b: Count) -> Count:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.maximum(a, b)
    return max(a, b)
