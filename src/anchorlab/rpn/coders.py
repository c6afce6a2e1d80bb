"""Box coder: writes a box relative to its anchor, so that a convolution can predict it, and back; clips to no image.

... any leading axes | the last axis holds x1 y1 x2 y2 of boxes and anchors, or t_x t_y t_w t_h of deltas
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len, doc
from torch import Tensor

from anchorlab.signatures import Count, Positive, checked

LARGEST = math.log(1000 / 16)
"""The largest t_w and t_h that is decoded by default: sixteen pixels become 1,000."""
FourWeights = Annotated[
    Sequence[Positive], Len(4, 4), doc("a list of four positive numbers, for x, y, w and h, such as [10,10,5,5]")
]


FourNumbers = Annotated[
    Sequence[float], Len(4, 4), doc("a list of four numbers, for x, y, w and h, such as [0,0,-1,-1]")
]


@checked
class DeltaCoder:
    """Faster R-CNN's parametrisation (3.1.2, equation 2), normalised: x, y centre, w, h size, _a those of the anchor.

        t_x = (x - x_a) / w_a        t_w = log(w / w_a)
        t_y = (y - y_a) / h_a        t_h = log(h / h_a)        delta = weights * (t - means)

    Args:
        weights: four positive factors; (1, 1, 1, 1) in every published RPN.
        clip: upper limit of t_w and t_h in `decode`, against overflow in exp; the default lets a box be at most 62.5
            times its anchor. None: no limit.
        means: what a delta of 0 stands for; 0, the anchor itself, in every published RPN. Fast R-CNN normalises the
            deltas of its second stage so.

    Anchors and boxes must have positive width and height: otherwise deltas are infinite or NaN, which is
    not hidden. All arithmetic is float32 or better, whatever the precision of the network.
    """

    def __init__(
        self,
        weights: FourWeights = (1.0, 1.0, 1.0, 1.0),
        clip: Positive | None = LARGEST,
        means: FourNumbers = (0.0, 0.0, 0.0, 0.0),
    ):
        self.weights = tuple(float(weight) for weight in weights)
        self.clip = clip
        self.means = tuple(float(mean) for mean in means)

    def encode(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Deltas (..., 4) that lead from `anchors` (..., 4) to `boxes` (..., 4)."""
        x_a, y_a, w_a, h_a = _centre_and_size(_at_least_float32(anchors))
        x, y, w, h = _centre_and_size(_at_least_float32(boxes))
        w_x, w_y, w_w, w_h = self.weights
        plain = (
            w_x * (x - x_a) / w_a,  # in this order, and the means apart, torchvision's to the last bit
            w_y * (y - y_a) / h_a,
            w_w * torch.log(w / w_a),
            w_h * torch.log(h / h_a),
        )
        shifts = [weight * mean for weight, mean in zip(self.weights, self.means, strict=True)]
        return torch.stack([move - shift for move, shift in zip(plain, shifts, strict=True)], dim=-1)

    def decode(self, anchors: Tensor, deltas: Tensor) -> Tensor:
        """Boxes (..., 4), not clipped to any image, that `deltas` (..., 4) make of `anchors` (..., 4)."""
        x_a, y_a, w_a, h_a = _centre_and_size(_at_least_float32(anchors))
        normal = zip(_at_least_float32(deltas).unbind(-1), self.weights, self.means, strict=True)
        t_x, t_y, t_w, t_h = (delta / weight + mean for delta, weight, mean in normal)
        if self.clip is not None:
            t_w, t_h = t_w.clamp(max=self.clip), t_h.clamp(max=self.clip)
        x, y = t_x * w_a + x_a, t_y * h_a + y_a
        half_w, half_h = 0.5 * (torch.exp(t_w) * w_a), 0.5 * (torch.exp(t_h) * h_a)
        return torch.stack((x - half_w, y - half_h, x + half_w, y + half_h), dim=-1)

    def plain_layer(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Of a layer that gives deltas, weight (4k, ...) and bias (4k,), those of one that gives t: others' coders."""
        k = len(weight) // 4
        factors, means = weight.new_tensor(self.weights).repeat(k), weight.new_tensor(self.means).repeat(k)
        return (weight.flatten(1) / factors[:, None]).view_as(weight), bias / factors + means


@checked
class FittedDeltaCoder(DeltaCoder):
    """A coder whose means and weights are those of the deltas that training boxes ask of the anchors.

    Training finds the numbers before it starts and keeps them in the run's config; until then they are the paper's.

    Deltas are in units of the anchor: of anchors four times as wide as the objects, a box needs four times the
    precision for the same pixels, and starts log(1/4) away from every object. An optimiser whose steps do not depend
    on the gradient's size (Adam) does not make up for either. Normalised, anchors that are too large learn as precise
    boxes as anchors that fit.

    Args:
        images: training images whose boxes are looked at.
        clip: as in `DeltaCoder`.
        means, weights: as in `DeltaCoder`; None: not fitted yet.
    """

    derived = ("means", "weights")
    """Follow from data, anchors and assigner, which are in a run's identity already."""

    def __init__(
        self,
        images: Count = 64,
        clip: Positive | None = LARGEST,
        means: FourNumbers | None = None,
        weights: FourWeights | None = None,
    ):
        super().__init__((1.0,) * 4 if weights is None else weights, clip, (0.0,) * 4 if means is None else means)
        self.images = images
        self.is_fitted = weights is not None


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    w, h = x2 - x1, y2 - y1
    return x1 + 0.5 * w, y1 + 0.5 * h, w, h


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
