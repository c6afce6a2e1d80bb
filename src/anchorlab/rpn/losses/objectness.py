"""Objectness losses: the cost of each sampled logit against object, background or box quality; regress no box.

S: anchors the loss is taken over, of all images of a batch.
"""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from anchorlab.signatures import NotNegative, Share, checked


class ObjectnessLoss(Protocol):
    """A sum over anchors; `losses.RPNLoss` divides and weighs it."""

    wants_iou: bool
    """Whether `iou` is read: otherwise nobody need compute it."""

    def __call__(self, logits: Tensor, is_object: Tensor, iou: Tensor) -> Tensor:
        """A scalar.

        Args:
            logits: (S,) float32.
            is_object: (S,) bool.
            iou: (S,) what the predicted box of an object has with the box it should be, without gradient; 0 for
                background.
        """
        ...


class BinaryCrossEntropy:
    """Object or not (Faster R-CNN, equation 1): -log p of an object, -log(1 - p) of background."""

    wants_iou = False

    def __call__(self, logits: Tensor, is_object: Tensor, iou: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, is_object.float(), reduction="sum")


@checked
class FocalLoss:
    """Cross-entropy that forgets what is easy (Lin et al. 2017, equation 5): meant for all anchors, without a sampler.

        -alpha (1 - p)^gamma log p   of an object,   -(1 - alpha) p^gamma log(1 - p)   of background

    It is `torchvision.ops.sigmoid_focal_loss`. Over all anchors it needs `head.prior` near 0.01, or the first steps
    belong to the background alone, and `loss.divisor=positives` (sections 4 and 5.1).
    """

    wants_iou = False

    def __init__(self, alpha: Share = 0.25, gamma: NotNegative = 2.0):
        self.alpha, self.gamma = alpha, gamma

    def __call__(self, logits: Tensor, is_object: Tensor, iou: Tensor) -> Tensor:
        return sigmoid_focal_loss(logits, is_object.float(), self.alpha, self.gamma, reduction="sum")


@checked
class QualityFocalLoss:
    """The logit learns the IoU of its box instead of "object" (Li et al. 2020, Generalized Focal Loss, equation 2).

        |y - p|^beta  BCE(p, y),   y the IoU of an object's predicted box, 0 for background

    beta: 0 is plain cross-entropy with soft targets.
    """

    wants_iou = True

    def __init__(self, beta: NotNegative = 2.0):
        self.beta = beta

    def __call__(self, logits: Tensor, is_object: Tensor, iou: Tensor) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(logits, iou, reduction="none")
        return ((iou - logits.sigmoid()).abs().pow(self.beta) * entropy).sum()


@checked
class VarifocalLoss:
    """As the quality focal loss, but objects count by their IoU, and only background is forgotten when easy.

        y BCE(p, y)  of an object,   -alpha p^gamma log(1 - p)  of background      (Zhang et al. 2021, equation 2)

    alpha, gamma: 0.75 and 2 in the paper. The weight p^gamma takes part in the gradient, as in its code. An object
    whose box does not overlap its target at all (y = 0) counts as background.
    """

    wants_iou = True

    def __init__(self, alpha: NotNegative = 0.75, gamma: NotNegative = 2.0):
        self.alpha, self.gamma = alpha, gamma

    def __call__(self, logits: Tensor, is_object: Tensor, iou: Tensor) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(logits, iou, reduction="none")
        background = self.alpha * logits.sigmoid().pow(self.gamma)
        return (iou.where(iou > 0, background) * entropy).sum()
