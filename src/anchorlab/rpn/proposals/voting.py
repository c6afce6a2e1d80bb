"""Box voting: replaces a proposal by the mean of the candidates around it; does not change its score.

NMS leaves one of many candidates on an object, the one of the best score, and no score knows which of them fits best.
Each is a guess with an error of its own, so that their mean is a better guess than most: Gidaris and Komodakis 2015
(Object detection via a multi-region & semantic segmentation-aware CNN model), weighted as in He et al. 2019 (Bounding
Box Regression with Uncertainty for Accurate Object Detection), without their predicted variance.

C candidates of one image | P proposals
"""

import torch
from torch import Tensor

from anchorlab.rpn.boxes import pairwise_iou

LEAST_IOU = 0.5
"""With a proposal, of a candidate that votes for it, as Gidaris and Komodakis have it."""

ROWS = 32
"""Proposals at a time: with thousands of candidates their IoUs then stay in a core's cache."""


def vote(boxes: Tensor, candidates: Tensor, scores: Tensor, sigma: float) -> Tensor:
    """(P, 4) the mean of candidates (C, 4) around each box (P, 4), weighted by score * exp(-(1 - IoU)^2 / sigma).

    Args:
        boxes: of the proposals, each one of the candidates.
        candidates: with an area, of all levels.
        scores: (C,) probability of being an object.
        sigma: the smaller, the nearer a candidate has to be: at 0.01 one at IoU 0.9 has 0.37 of its score, at 0.8 0.02.

    Always in float32. A sum is rounded: a mean may be less than a box by the last bits of its coordinates.
    """
    weight = scores.float().clamp(min=torch.finfo(torch.float32).tiny)  # one of probability 0 still has its own vote
    with torch.autocast(boxes.device.type, enabled=False):  # bf16 would round a corner at 300 px to 2 px
        return torch.cat([weighted_means(part, candidates, weight, sigma) for part in boxes.split(ROWS)])


def weighted_means(boxes: Tensor, candidates: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """(P, 4) as `vote`, of float32 and all at once; weight: (C,) positive."""
    iou = pairwise_iou(boxes, candidates)
    apart = (1 - iou).clamp(max=1 - LEAST_IOU)  # without the limit most exponentials are denormal, and slow
    votes = weight * torch.exp(-(apart**2) / sigma) * (iou >= LEAST_IOU)
    return votes @ candidates / votes.sum(dim=1, keepdim=True)
