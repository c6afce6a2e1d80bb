"""Proposal selection: takes the best anchors of each level, decodes, clips and thins them by NMS; learns nothing.

B images | A anchors of one image, all levels | n anchors kept of one level | P proposals of one image
C candidates of one image, L levels among them
"""

import copy
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self, TypeVar

import torch
from annotated_types import MinLen
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image, nms

from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.boxes import pairwise_iou
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.proposals.voting import vote
from anchorlab.signatures import Count, Counts, NotNegative, Positive, Share, checked

T = TypeVar("T", int, float)


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


@checked
class ProposalSelector:
    """Faster R-CNN's proposal layer as it is built today: top-k and NMS level by level, then the best of all.

    Args:
        pre_nms_top_n: anchors kept per level before NMS; one number, or one for each level, finest first.
        post_nms_top_n: proposals kept per image.
        nms_iou: a proposal is dropped when its IoU with a better one of the same level exceeds this; one number, or
            one for each level.
        min_size: shortest side a proposal may have, in pixels of the network's input; empty boxes always go.
        score_threshold: lowest probability a proposal may have.
        vote_sigma: proposals that are left become the mean of the candidates around them (`voting.vote`); None: they
            stay as decoded.

    Proposals are ranked by float32 probability, as in torchvision; where logits are so large that
    probabilities are equal, those of one level keep the order of their logits.
    """

    def __init__(
        self,
        pre_nms_top_n: Count | Counts = 1000,
        post_nms_top_n: Count = 1000,
        nms_iou: Share | Annotated[Sequence[Share], MinLen(1)] = 0.7,
        min_size: NotNegative = 0.0,
        score_threshold: Share = 0.0,
        vote_sigma: Positive | None = None,
    ):
        self.pre_nms_top_n = pre_nms_top_n
        self.post_nms_top_n = post_nms_top_n
        self.nms_iou = nms_iou
        self.min_size = min_size
        self.score_threshold = score_threshold
        self.vote_sigma = vote_sigma

    per_level = ("pre_nms_top_n", "nms_iou")
    """Settings that may be one for each level."""

    @property
    def thinning(self) -> str:
        """What `thin` does, in a word or two."""
        return f"NMS {self.nms_iou:g}" if isinstance(self.nms_iou, float | int) else f"NMS {list(self.nms_iou)}"

    @property
    def selection(self) -> str:
        """What `select` does, in a few words."""
        return self.thinning if self.vote_sigma is None else f"{self.thinning} and voting"

    def check_levels(self, num_levels: int) -> None:
        """Raise ValueError where a setting has one number for each of another number of levels."""
        for key in self.per_level:
            value = getattr(self, key)
            if isinstance(value, Sequence) and len(value) != num_levels:
                raise ValueError(
                    f"proposals.{key}={list(value)} has {len(value)} numbers for {num_levels} levels: "
                    "give one for each level, or one for all."
                )

    def of_level(self, level: int) -> Self:
        """The selector of a single level."""
        alone = copy.copy(self)
        for key in self.per_level:
            setattr(alone, key, _at(getattr(self, key), level))
        return alone

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

        The anchors are those of every image, or each image's own, boxes (B, A, 4).

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
        starts = anchors.boxes.expand(len(logits), -1, -1)  # (B, A, 4)
        per_level = (part.split(anchors.num_per_level, dim=1) for part in (logits, deltas, starts))
        for level, (level_logits, level_deltas, level_anchors) in enumerate(zip(*per_level, strict=True)):
            n = min(_at(self.pre_nms_top_n, level), level_logits.shape[1])
            top_logits, top = level_logits.topk(n, dim=1)  # (B, n)
            rows = top[..., None].expand(-1, -1, 4)  # (B, n, 4)
            decoded = coder.decode(level_anchors.gather(1, rows), level_deltas.gather(1, rows))
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
        keep = self.large_enough(boxes) & (scores >= self.score_threshold)
        boxes, scores, levels, anchor = boxes[keep], scores[keep], levels[keep], anchor[keep]
        best, ranked = self.thin(boxes, scores, levels)
        found = boxes[best]
        if self.vote_sigma is not None:
            # A sum is rounded: by chance beyond the image, and a sliver to nothing, which stays as it was.
            means = clip_boxes_to_image(vote(found, boxes, scores, self.vote_sigma), size)
            found = means.where(self.large_enough(means)[:, None], found)
        return Proposals(found, ranked, levels[best], anchor[best])

    def large_enough(self, boxes: Tensor) -> Tensor:
        """(P,) bool, boxes (P, 4) that have an area and no side below `min_size`."""
        shortest = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1)
        return (shortest > 0) & (shortest >= self.min_size)

    def thin(self, boxes: Tensor, scores: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Which (P,) of the boxes (C, 4) are proposals, best first, and their scores (P,), from levels (C,)."""
        if isinstance(self.nms_iou, Sequence):
            parts = [(levels == level).nonzero().squeeze(1) for level in range(len(self.nms_iou))]
            kept = [part[nms(boxes[part], scores[part], iou)] for part, iou in zip(parts, self.nms_iou, strict=True)]
            best = torch.cat(kept).sort().values
            best = best[scores[best].sort(descending=True, stable=True).indices]
        else:
            best = batched_nms(boxes, scores, levels, self.nms_iou)
        best = best[: self.post_nms_top_n]
        return best, scores[best]


@checked
class SoftNMSSelector(ProposalSelector):
    """Proposals lose score by their overlap with better ones instead of being dropped (Bodla et al. 2017, Soft-NMS).

        s_i <- s_i exp(-IoU(M, b_i)^2 / sigma)   for each remaining box of M's level, M the best of them, in turn

    In crowds the neighbour of a good box is another object; NMS would drop it for good.

    Args:
        sigma: width of the Gaussian (0.5 in the paper); the smaller, the nearer to dropping.
        score_threshold: lowest score a proposal may have, before and after.
        others: as `ProposalSelector`'s.
    """

    per_level = ("pre_nms_top_n", "sigma")

    def __init__(
        self,
        pre_nms_top_n: Count | Counts = 1000,
        post_nms_top_n: Count = 1000,
        sigma: Positive | Annotated[Sequence[Positive], MinLen(1)] = 0.5,
        min_size: NotNegative = 0.0,
        score_threshold: Share = 0.0,
        vote_sigma: Positive | None = None,
    ):
        super().__init__(
            pre_nms_top_n, post_nms_top_n, min_size=min_size, score_threshold=score_threshold, vote_sigma=vote_sigma
        )
        self.sigma = sigma

    @property
    def thinning(self) -> str:
        return "soft-NMS"

    def thin(self, boxes: Tensor, scores: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """As `ProposalSelector.thin`; the scores are those that are left."""
        if len(boxes) == 0:
            return levels, scores
        present = levels.unique().tolist()
        numbers = [(levels == level).nonzero().squeeze(1) for level in present]
        width = max(len(number) for number in numbers)
        left = scores.new_full((len(present), width), -1.0)  # (L, n), -1 where a level has fewer
        decay = scores.new_ones(len(present), width, width)
        for row, (level, number) in enumerate(zip(present, numbers, strict=True)):
            left[row, : len(number)] = scores[number]
            own = boxes[number]
            gaussian = torch.exp(-(pairwise_iou(own, own) ** 2) / _at(self.sigma, level))
            decay[row, : len(number), : len(number)] = gaussian
        chosen, final = soft_nms(left, decay, min(width, self.post_nms_top_n))
        padded = torch.stack([_padded(number, width) for number in numbers])
        found = padded.gather(1, chosen).flatten()
        final = final.flatten()
        kept = (final >= self.score_threshold) & (final >= 0)
        best = final[kept].sort(descending=True, stable=True)
        best_number = found[kept][best.indices][: self.post_nms_top_n]
        return best_number, best.values[: self.post_nms_top_n]


def soft_nms(scores: Tensor, decay: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` boxes of each level as soft-NMS takes them (L, count), and the scores they then have.

    scores: (L, n), negative for places without a box. decay: (L, n, n), what a box leaves of another's score.
    Scores only fall, so each level's are in descending order.
    """
    left, rows = scores.clone(), torch.arange(len(scores), device=scores.device)
    chosen, final = [], []
    for _ in range(count):
        best = left.max(dim=1)
        chosen.append(best.indices)
        final.append(best.values)
        left[rows, best.indices] = -1.0
        left = left.where(left < 0, left * decay[rows, best.indices])
    return torch.stack(chosen, dim=1), torch.stack(final, dim=1)


def _padded(number: Tensor, width: int) -> Tensor:
    return torch.cat((number, number.new_zeros(width - len(number))))


def _at(value: T | Sequence[T], level: int) -> T:
    return value[level] if isinstance(value, Sequence) else value


def _require_finite(level: int, **values: Tensor) -> None:
    # A sum is several times faster than a look at each of 800,000 anchors, and NaN or infinity come through it.
    if torch.stack([value.sum() for value in values.values()]).isfinite().all():
        return
    names = " and ".join(name for name, value in values.items() if not value.isfinite().all())
    if names:
        raise FloatingPointError(f"Level {level} predicts {names} that are NaN or infinite: the training has diverged.")
