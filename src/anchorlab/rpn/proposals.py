"""From predictions to proposals: the best anchors of each level, decoded, clipped and thinned by NMS.

B images | A anchors of one image, all levels | n anchors kept of one level | P proposals of one image
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.coders import DeltaCoder


class Proposals(NamedTuple):
    """The proposals of one image, best first, in pixels of the network's input."""

    boxes: Tensor  # (P, 4) float32 xyxy, inside the image
    scores: Tensor  # (P,) float32, probability of being an object
    level: Tensor  # (P,) int64, the feature map the proposal comes from, finest first
    anchor: Tensor  # (P,) int64, the anchor it was decoded from, its row in `Anchors.boxes`


class Candidates(NamedTuple):
    """The anchors of a batch that go into NMS, n of each level: N together."""

    boxes: Tensor  # (B, N, 4) decoded, not clipped
    scores: Tensor  # (B, N) probability of being an object
    level: Tensor  # (N,) int64
    anchor: Tensor  # (B, N) int64


class ProposalSelector:
    """Faster R-CNN's proposal layer as it is built today: top-k and NMS level by level, then the best of all.

    Args:
        pre_nms_top_n: anchors kept per level before NMS.
        post_nms_top_n: proposals kept per image.
        nms_iou: a proposal is dropped when its IoU with a better one of the same level exceeds this.
        min_size: shortest side a proposal may have, in pixels of the network's input; empty boxes always go.
        score_threshold: lowest probability a proposal may have.

    Proposals are ranked by float32 probability, as in torchvision; where logits are so large that
    probabilities are equal, those of one level keep the order of their logits.
    """

    def __init__(
        self,
        pre_nms_top_n: int = 1000,
        post_nms_top_n: int = 1000,
        nms_iou: float = 0.7,
        min_size: float = 0.0,
        score_threshold: float = 0.0,
    ):
        _check(pre_nms_top_n, post_nms_top_n, nms_iou, min_size, score_threshold)
        self.pre_nms_top_n = pre_nms_top_n
        self.post_nms_top_n = post_nms_top_n
        self.nms_iou = nms_iou
        self.min_size = min_size
        self.score_threshold = score_threshold

    @torch.no_grad()
    def __call__(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Anchors,
        coder: DeltaCoder,
        sizes: list[tuple[int, int]],
    ) -> list[Proposals]:
        """Proposals of each image, from logits (B, A), deltas (B, A, 4) and each image's own (height, width).

        Raises:
            FloatingPointError: a logit, delta or decoded box is NaN or infinite; names the level.
        """
        candidates = self.candidates(logits, deltas, anchors, coder)
        return [self.select(candidates, image, size) for image, size in enumerate(sizes)]

    @torch.no_grad()
    def candidates(self, logits: Tensor, deltas: Tensor, anchors: Anchors, coder: DeltaCoder) -> Candidates:
        """The best-scored anchors of each level, decoded; raises as the call does."""
        boxes, scores, levels, chosen = [], [], [], []
        start = 0
        per_level = (part.split(anchors.num_per_level, dim=1) for part in (logits, deltas, anchors.boxes[None]))
        for level, (level_logits, level_deltas, level_anchors) in enumerate(zip(*per_level, strict=True)):
            n = min(self.pre_nms_top_n, level_logits.shape[1])
            top_logits, top = level_logits.topk(n, dim=1)  # (B, n)
            top_deltas = level_deltas.gather(1, top[..., None].expand(-1, -1, 4))  # (B, n, 4)
            decoded = coder.decode(level_anchors[0, top], top_deltas)
            _require_finite(level, logits=level_logits, deltas=level_deltas, boxes=decoded)
            boxes.append(decoded)
            scores.append(top_logits.sigmoid())
            levels.append(torch.full((n,), level, device=logits.device))
            chosen.append(start + top)
            start += level_logits.shape[1]
        return Candidates(torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels), torch.cat(chosen, 1))

    @torch.no_grad()
    def select(self, candidates: Candidates, image: int, size: tuple[int, int]) -> Proposals:
        """What NMS leaves of one image's candidates, clipped to its (height, width)."""
        boxes = clip_boxes_to_image(candidates.boxes[image], size)
        scores, levels, anchor = candidates.scores[image], candidates.level, candidates.anchor[image]
        shortest = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1)
        keep = (shortest > 0) & (shortest >= self.min_size) & (scores >= self.score_threshold)
        boxes, scores, levels, anchor = boxes[keep], scores[keep], levels[keep], anchor[keep]
        best = batched_nms(boxes, scores, levels, self.nms_iou)[: self.post_nms_top_n]
        return Proposals(boxes[best], scores[best], levels[best], anchor[best])


def _check(pre_nms_top_n: int, post_nms_top_n: int, nms_iou: float, min_size: float, score_threshold: float) -> None:
    for key, count in (("pre_nms_top_n", pre_nms_top_n), ("post_nms_top_n", post_nms_top_n)):
        if count < 1:
            raise ValueError(f"proposals.{key}={count}: give a whole number of at least 1.")
    for key, share in (("nms_iou", nms_iou), ("score_threshold", score_threshold)):
        if not 0 <= share <= 1:
            raise ValueError(f"proposals.{key}={share}: give a number between 0 and 1.")
    if not min_size >= 0:
        raise ValueError(f"proposals.min_size={min_size}: give a number of pixels that is not negative.")


def _require_finite(level: int, **values: Tensor) -> None:
    # A sum is several times faster than a look at each of 800,000 anchors, and NaN or infinity come through it.
    if torch.stack([value.sum() for value in values.values()]).isfinite().all():
        return
    names = " and ".join(name for name, value in values.items() if not value.isfinite().all())
    if names:
        raise FloatingPointError(f"Level {level} predicts {names} that are NaN or infinite: the training has diverged.")
