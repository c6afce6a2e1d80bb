"""What the sampled anchors of a batch cost: objectness and box loss; it neither assigns nor samples.

S sampled anchors of the batch | P sampled positives among them
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

DIVISORS = ("sampled", "budget", "locations")


class LossCounts(NamedTuple):
    """What a loss may be divided by: of its batch, or where processes share a batch, the mean over them.

    Divided by that mean, the losses of the processes have as their mean, and their gradients too, what one process
    gets for the whole batch, however unevenly anchors are spread over them.
    """

    budget: float | Tensor  # anchors the sampler may take per image x images
    locations: float | Tensor  # anchor locations (grid cells of all levels) per image x images
    sampled: float | Tensor | None = None  # anchors it took; None: S, those the loss is given


class RPNLoss:
    """Binary cross-entropy for objectness, plus a box loss that the subclass defines.

    Args:
        divisor: what the sums are divided by.
            "sampled": both by S, the anchors sampled in the batch (torchvision).
            "budget": both by the sampler's budget x images, taken or not (Detectron2: 256 x images).
            "locations": objectness by S, the box loss by the number of anchor locations (paper, equation 1,
                whose lambda is `box_weight` = 10).
        box_weight, objectness_weight: factors of the two losses.

    Always float32. Non-finite predictions or targets give a non-finite loss; nothing is dropped or replaced.
    """

    def __init__(self, divisor: str = "sampled", box_weight: float = 1.0, objectness_weight: float = 1.0):
        if divisor not in DIVISORS:
            raise ValueError(f"loss.divisor={divisor}: choose one of {', '.join(DIVISORS)}.")
        for key, weight in (("box_weight", box_weight), ("objectness_weight", objectness_weight)):
            if not weight >= 0:
                raise ValueError(f"loss.{key}={weight}: give a number that is not negative.")
        self.divisor = divisor
        self.box_weight = box_weight
        self.objectness_weight = objectness_weight

    def __call__(
        self, logits: Tensor, labels: Tensor, deltas: Tensor, targets: Tensor, counts: LossCounts
    ) -> tuple[Tensor, Tensor]:
        """Weighted objectness and box loss, two float32 scalars; zero where there is nothing to sum.

        Args:
            logits, labels: (S,), label True or 1 for object, False or 0 for background.
            deltas, targets: (P, 4), predicted and wanted deltas of the positives.
        """
        objectness = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="sum")
        box = self.box_sum(deltas.float(), targets.float())
        num_objectness, num_box = self._divisors(len(logits), counts)
        return self.objectness_weight * objectness / num_objectness, self.box_weight * box / num_box

    def box_sum(self, deltas: Tensor, targets: Tensor) -> Tensor:
        """The box loss summed over the (P, 4) deltas."""
        raise NotImplementedError

    def _divisors(self, num_sampled: int, counts: LossCounts) -> tuple[float | Tensor, float | Tensor]:
        sampled = max(num_sampled, 1) if counts.sampled is None else counts.sampled
        if self.divisor == "budget":
            return counts.budget, counts.budget
        return sampled, counts.locations if self.divisor == "locations" else sampled


class SmoothL1Loss(RPNLoss):
    """Box loss quadratic for errors below `beta` and linear above (Fast R-CNN, equation 3, with beta 1)."""

    def __init__(
        self,
        beta: float = 1 / 9,
        divisor: str = "sampled",
        box_weight: float = 1.0,
        objectness_weight: float = 1.0,
    ):
        super().__init__(divisor, box_weight, objectness_weight)
        if not beta >= 0:
            raise ValueError(f"loss.beta={beta}: give a number that is not negative (0 is the L1 loss).")
        self.beta = beta

    def box_sum(self, deltas: Tensor, targets: Tensor) -> Tensor:
        return F.smooth_l1_loss(deltas, targets, beta=self.beta, reduction="sum")


class L1Loss(RPNLoss):
    """Box loss that is linear in the error."""

    def box_sum(self, deltas: Tensor, targets: Tensor) -> Tensor:
        return F.l1_loss(deltas, targets, reduction="sum")
