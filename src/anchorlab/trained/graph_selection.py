"""Proposal selection in a graph: what the selectors of `rpn/proposals` do, in shapes that no value decides.

A candidate that is dropped stays, with a score that loses; a choice is a mask. Knows plain NMS, tiered NMS and box
voting, with results equal to the selectors' but for ties, which a graph gives to the finer level.

L levels | n candidates of one level | C of all | P proposals, as many as the selector gives at most
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from anchorlab.rpn.boxes import pairwise_iou
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.rpn.proposals.tiered_nms import FittedTieredNMSSelector, TieredNMSSelector
from anchorlab.rpn.proposals.voting import weighted_means

DROPPED = -1.0
"""The score of what would not be a proposal."""

OUTSIDE = ((-2.0, -2.0, -1.0, -1.0), (-4.0, -4.0, -3.0, -3.0))
"""Where NMS is told that dropped candidates lie, the first: they overlap no other one, and the first of them drops the
rest, which would else be compared with each other. One box more lies at each: torch.export takes for granted that NMS
keeps two boxes."""

EXPRESSIBLE = (ProposalSelector, TieredNMSSelector, FittedTieredNMSSelector)
"""The selectors that a graph can hold; neither is a subclass of another kind."""

VOTERS_AT_A_TIME = 128
"""Proposals whose IoU with all candidates is in memory at once."""


class GraphSelection(nn.Module):
    """Candidates of each level, boxes (n, 4) and scores (n,) -> boxes (P, 4), scores (P,), best first.

    Scores are `DROPPED` for candidates that are none, and in the last rows where there are fewer than P proposals.
    """

    powers: Tensor
    outside: Tensor

    def __init__(self, selector: ProposalSelector) -> None:
        super().__init__()
        self.selector = selector
        self.register_buffer("outside", torch.tensor(OUTSIDE), persistent=False)
        self.register_buffer("powers", 2.0 ** -torch.arange(127, dtype=torch.float64), persistent=False)

    def forward(
        self, boxes: Sequence[Tensor], scores: Sequence[Tensor], height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        tiered = isinstance(self.selector, TieredNMSSelector)
        index, ranked = (self._tiered if tiered else self._plain)(boxes, scores)
        candidates = torch.cat(list(boxes))
        found = candidates[index]
        if self.selector.vote_sigma is not None:
            found = self._voted(found, candidates, torch.cat(list(scores)), self.selector.vote_sigma, height, width)
        return found, ranked

    def _plain(self, boxes: Sequence[Tensor], scores: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """As `ProposalSelector.thin`."""
        left = []
        for level, (here, score) in enumerate(zip(boxes, scores, strict=True)):
            iou = cast(float, self.selector.of_level(level).nms_iou)
            left.append(score.where(self.kept(here, score, iou), DROPPED))
        together = torch.cat(left)
        ranked, index = together.topk(min(self.selector.post_nms_top_n, len(together)))
        return index, ranked

    def _tiered(self, boxes: Sequence[Tensor], scores: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """As `TieredNMSSelector.thin`: of each candidate the tier that takes it and its place among all by score."""
        selector = cast(TieredNMSSelector, self.selector)
        together, candidates = torch.cat(list(scores)), torch.cat(list(boxes))
        order = together.topk(len(together)).indices
        place = torch.zeros_like(order).scatter(0, order, torch.arange(len(order)))
        nowhere = len(order) * len(selector.tiers)
        turn = torch.full_like(order, nowhere)  # in which a candidate is taken
        there = torch.where(together > DROPPED, 0.0, torch.inf)
        taken = torch.zeros_like(together, dtype=torch.bool)
        for tier, (count, iou) in enumerate(selector.tiers):
            groups = [candidates] if count <= selector.across_levels else boxes
            sizes = [len(group) for group in groups]
            nearest = there  # best IoU with one taken, of the same group
            if tier > 0:
                parts = zip(groups, taken.split(sizes), strict=True)
                nearest = nearest.maximum(torch.cat([_best_iou(here, chosen) for here, chosen in parts]))
                nearest = nearest.where(~taken, torch.inf)
            left = together.where(nearest <= iou, DROPPED)
            parts = zip(groups, left.split(sizes), strict=True)
            kept = torch.cat([self.kept(here, score, iou) for here, score in parts])
            ranked = kept[order]
            found = (ranked & (ranked.long().cumsum(0) <= count - taken.sum()))[place]
            turn = torch.where(found, tier * len(order) + place, turn)
            taken = taken | found
        first, index = (-turn).topk(min(self.selector.post_nms_top_n, len(order)))
        lowered = self._strictly_descending(together[index])
        return index, lowered.where(first > -nowhere, DROPPED)

    def kept(self, boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
        """(n,) bool, what NMS keeps of one level's candidates that are not dropped."""
        there = scores > DROPPED
        placed = torch.cat((boxes.where(there[:, None], self.outside[0]), self.outside))
        ranked = torch.cat((scores, torch.full((2,), DROPPED)))
        kept = nms(placed, ranked, iou)
        chosen = torch.zeros_like(ranked, dtype=torch.bool).scatter(0, kept, torch.ones_like(kept, dtype=torch.bool))
        return there & chosen[: len(scores)]

    def _strictly_descending(self, scores: Tensor) -> Tensor:
        """As `tiered_nms.strictly_descending`; ONNX sees no bits of a float, float64 holds them as exact numbers."""
        wide = scores.double()
        exponent = (wide[:, None] < self.powers).sum(dim=1)
        power = self.powers[exponent.clamp(max=126)]
        normal = (127 - exponent + wide / power - 1) * 2.0**23
        number = torch.where(exponent < 127, normal, wide * 2.0**149)
        rank = torch.arange(len(scores), dtype=torch.float64)
        earlier = rank[None, :] <= rank[:, None]
        least = torch.where(earlier, (number + rank)[None, :], torch.inf).amin(dim=1)
        number = (least - rank).clamp(min=0)
        exponent = (number / 2.0**23).floor()
        power = self.powers[(127 - exponent).clamp(min=0, max=126).long()]
        normal = power * (1 + number / 2.0**23 - exponent)
        return torch.where(exponent >= 1, normal, number * 2.0**-149).float()

    def _voted(
        self, found: Tensor, candidates: Tensor, scores: Tensor, sigma: float, height: int, width: int
    ) -> Tensor:
        """As `voting.vote`, and what `ProposalSelector.select` does with it."""
        weight = scores.clamp(min=torch.finfo(torch.float32).tiny)
        candidates = candidates.where((scores > DROPPED)[:, None], 0.0)  # without an area they overlap nothing
        parts = [weighted_means(part, candidates, weight, sigma) for part in found.split(VOTERS_AT_A_TIME)]
        means = clipped(torch.cat(parts), height, width)
        return means.where(self.selector.large_enough(means)[:, None], found)


def clipped(boxes: Tensor, height: int, width: int) -> Tensor:
    """As torchvision's `clip_boxes_to_image`, for sides that a graph does not know yet."""
    x, y = boxes[:, 0::2].clamp(min=0, max=width), boxes[:, 1::2].clamp(min=0, max=height)
    return torch.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), dim=1)


def _best_iou(boxes: Tensor, chosen: Tensor) -> Tensor:
    """(n,) best IoU of each box with the chosen ones (bool, (n,)), 0 without any."""
    nothing = torch.zeros(1, 4)  # a maximum wants at least one
    return pairwise_iou(boxes, torch.cat((boxes[chosen.nonzero().squeeze(1)], nothing))).amax(dim=1)
