"""Box coder: writes a box relative to its anchor, so that a convolution can predict it, and back; clips to no image.

... any leading axes | the last axis holds x1 y1 x2 y2 of boxes and anchors, or t_x t_y t_w t_h of deltas
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len, doc
from torch import Tensor

from anchorlab.signatures import Positive, checked

LARGEST = math.log(1000 / 16)
"""The largest t_w and t_h that is decoded by default: sixteen pixels become 1,000."""
FourWeights = Annotated[
    Sequence[Positive], Len(4, 4), doc("a list of four positive numbers, for x, y, w and h, such as [10,10,5,5]")
]


@checked
class DeltaCoder:
    """Faster R-CNN's parametrisation (3.1.2, equation 2): x, y centre, w, h size, _a those of the anchor.

        t_x = weights[0] * (x - x_a) / w_a        t_w = weights[2] * log(w / w_a)
        t_y = weights[1] * (y - y_a) / h_a        t_h = weights[3] * log(h / h_a)

    Args:
        weights: four positive factors; (1, 1, 1, 1) in every published RPN.
        clip: upper limit of t_w / weights[2] and t_h / weights[3] in `decode`, against overflow in exp; the
            default lets a box be at most 62.5 times its anchor. None: no limit.

    Anchors and boxes must have positive width and height: otherwise deltas are infinite or NaN, which is
    not hidden. All arithmetic is float32 or better, whatever the precision of the network.
    """

    def __init__(self, weights: FourWeights = (1.0, 1.0, 1.0, 1.0), clip: Positive | None = LARGEST):
        self.weights = tuple(float(weight) for weight in weights)
        self.clip = clip

    def encode(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Deltas (..., 4) that lead from `anchors` (..., 4) to `boxes` (..., 4)."""
        x_a, y_a, w_a, h_a = _centre_and_size(_at_least_float32(anchors))
        x, y, w, h = _centre_and_size(_at_least_float32(boxes))
        w_x, w_y, w_w, w_h = self.weights
        return torch.stack(
            (
                w_x * (x - x_a) / w_a,
                w_y * (y - y_a) / h_a,
                w_w * torch.log(w / w_a),
                w_h * torch.log(h / h_a),
            ),
            dim=-1,
        )

    def decode(self, anchors: Tensor, deltas: Tensor) -> Tensor:
        """Boxes (..., 4), not clipped to any image, that `deltas` (..., 4) make of `anchors` (..., 4)."""
        x_a, y_a, w_a, h_a = _centre_and_size(_at_least_float32(anchors))
        t_x, t_y, t_w, t_h = (
            delta / weight for delta, weight in zip(_at_least_float32(deltas).unbind(-1), self.weights, strict=True)
        )
        if self.clip is not None:
            t_w, t_h = t_w.clamp(max=self.clip), t_h.clamp(max=self.clip)
        x, y = t_x * w_a + x_a, t_y * h_a + y_a
        half_w, half_h = 0.5 * (torch.exp(t_w) * w_a), 0.5 * (torch.exp(t_h) * h_a)
        return torch.stack((x - half_w, y - half_h, x + half_w, y + half_h), dim=-1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    w, h = x2 - x1, y2 - y1
    return x1 + 0.5 * w, y1 + 0.5 * h, w, h


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
