"""Quality output: learns how well each box will fit and ranks proposals by it; does not decide what is an object.

Objectness learns which anchors *lie* well; it cannot know whose box will end up well. Ranked by both, NMS keeps the
better box of two on one object, and a budget of N holds more that pass a high IoU. Kim et al. 2022 (Learning
Open-World Object Proposals without Learning to Classify, section 3.2): what learns from well-placed anchors alone, and
never that the rest is background, also ranks objects nobody annotated.

A: anchors of one image | G: boxes of one image | Q: anchors that teach the output
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.assigners.max_iou import best_boxes
from anchorlab.rpn.boxes import paired_iou
from anchorlab.rpn.samplers import choose
from anchorlab.signatures import Count, CountOrZero, NotNegative, PositiveShare, checked


class Near(NamedTuple):
    """The anchors of one image that teach the output, those of the background last."""

    anchor: Tensor  # (Q,) int64
    boxes: Tensor  # (Q, 4) the box each lies nearest to; zeros for background
    is_near: Tensor  # (Q,) bool, False for background


@checked
class Quality:
    """A number between 0 and 1 for each anchor, learnt by binary cross-entropy; what it is, the subclass defines.

    Args:
        num: anchors drawn per image, of those whose IoU with some box is at least `least_iou`: loosely placed ones,
            many of which are neither object nor background for the assigner (its paper: 256, 0.3).
        background: anchors drawn per image of the others, for which the number is 0 (its paper: none; its code draws
            256 in all, and fills up with those of IoU below 0.1).
        weight: factor of the loss, which is a mean over the anchors drawn in the batch.
        score: what ranks proposals: "both", the square root of objectness x quality; "quality" alone; "objectness"
            alone, where the output is only to shape the features.

    Raises ValueError for settings out of range.
    """

    def __init__(
        self,
        num: Count = 256,
        least_iou: PositiveShare = 0.3,
        background: CountOrZero = 0,
        weight: NotNegative = 1.0,
        score: Literal["both", "quality", "objectness"] = "both",
    ):
        self.num = num
        self.least_iou = least_iou
        self.background = background
        self.weight = weight
        self.score = score

    def draw(self, anchors: Anchors, boxes: Tensor, generator: torch.Generator) -> Near:
        """The anchors of one image with boxes (G, 4), ignored regions left out by the caller."""
        near, box, _ = best_boxes(anchors, boxes, self.least_iou)
        row = choose(torch.arange(len(near), device=near.device), self.num, generator)
        others = torch.zeros(0, dtype=torch.int64, device=near.device)
        if self.background:
            far = torch.ones(len(anchors.boxes), dtype=torch.bool, device=near.device)
            far[near] = False
            others = choose(far.nonzero().squeeze(1), self.background, generator)
        return Near(
            torch.cat((near[row], others)),
            torch.cat((boxes[box[row]], boxes.new_zeros(len(others), 4))),
            torch.cat((torch.ones_like(row), torch.zeros_like(others))).bool(),
        )

    def loss(self, logits: Tensor, target: Tensor, count: float | Tensor) -> Tensor:
        """Weighted mean over the Q logits of a batch; `count`: what their sum is divided by."""
        return self.weight * F.binary_cross_entropy_with_logits(logits.float(), target, reduction="sum") / count

    def target(self, anchors: Tensor, predicted: Tensor, near: Near) -> Tensor:
        """(Q,) what the output should be, from anchors (Q, 4) and their predicted boxes (Q, 4), without gradient."""
        return self.measure(anchors, predicted.detach(), near.boxes).where(near.is_near, 0.0)

    def measure(self, anchors: Tensor, predicted: Tensor, boxes: Tensor) -> Tensor:
        raise NotImplementedError

    def rank(self, objectness: Tensor, quality: Tensor) -> Tensor:
        """The logits whose sigmoid is the score that ranks proposals."""
        if self.score == "objectness":
            return objectness
        return quality if self.score == "quality" else mean_logit(objectness, quality)


class IoUQuality(Quality):
    """The IoU of the predicted box with its box: "OLN-Box" in the paper; IoU-Net (Jiang et al. 2018) ranks so, too."""

    def measure(self, anchors: Tensor, predicted: Tensor, boxes: Tensor) -> Tensor:
        return paired_iou(predicted, boxes)


class CenternessQuality(Quality):
    """How central the anchor lies in its box: "OLN-RPN" in the paper, from FCOS (Tian et al. 2019, equation 3).

        sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)),   l, t, r, b from the anchor's centre to the box's sides

    0 where the centre lies outside. It depends on no prediction.
    """

    def measure(self, anchors: Tensor, predicted: Tensor, boxes: Tensor) -> Tensor:
        centre = (anchors[:, :2] + anchors[:, 2:]) / 2
        before, behind = (centre - boxes[:, :2]).clamp(min=0), (boxes[:, 2:] - centre).clamp(min=0)  # (Q, 2) each
        longer = torch.maximum(before, behind)
        return (torch.minimum(before, behind) / longer.where(longer > 0, 1)).prod(dim=1).sqrt()


def mean_logit(a: Tensor, b: Tensor) -> Tensor:
    """The logit of sqrt(sigmoid(a) * sigmoid(b)), exact also where the sigmoids are 0 or 1 in float32."""
    log_score = (F.logsigmoid(a) + F.logsigmoid(b)) / 2
    # 1 - score is its own exponential's complement; at the very top it would be log 0.
    return log_score - torch.log(-torch.expm1(log_score.clamp(max=-1e-37)))
