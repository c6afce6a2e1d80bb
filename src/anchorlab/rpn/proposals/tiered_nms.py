"""Tiered NMS: an IoU threshold for each budget of proposals, to serve 100 and 1,000 at once; rescores nothing.

One threshold has to serve two ends. Below 0.8 or so a second try at an object is dropped, although no score knows which
of two boxes at IoU 0.75 fits the better, and recall at high IoU ends there. Above, the first hundred proposals are many
tries at few objects, and recall at IoU 0.5 suffers. But proposals are ranked, and a rank has a budget: the first few
should be of different objects, further ones may be second tries, and the last of a budget are best spent on what no
proposal has covered yet.

C candidates of one image | P proposals
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import MinLen, doc
from torch import Tensor
from torchvision.ops import batched_nms

from anchorlab.rpn.boxes import pairwise_iou
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.signatures import Count, CountOrZero, Counts, NotNegative, Positive, Share, checked

LEAST_LOOKED_AT = 64


Tiers = Annotated[
    Sequence[tuple[Count, Share]],
    MinLen(1),
    doc("a list of pairs, a number of proposals (ascending) and an IoU, such as [[100,0.7],[1000,0.85]]"),
]
Shares = Annotated[Sequence[Share], MinLen(1)]


@checked
class TieredNMSSelector(ProposalSelector):
    """Until there are `count` proposals: the best candidate whose IoU with each one taken so far is at most `iou`.

    Args:
        tiers: pairs (count, iou), counts ascending. A later tier looks again at candidates that an earlier one passed
            over. One that runs out of candidates leaves the rest of its count to the next.
        post_nms_top_n: proposals per image, if the tiers give more.
        across_levels: tiers of up to so many proposals compare boxes of all levels.
        others: as `ProposalSelector`'s.

    Other tiers compare boxes of the same level, as NMS does; a single one is `ProposalSelector`'s NMS. A score is no
    longer the probability where a proposal follows one of a lower probability: it is then the next smaller float32, so
    that sorting by score gives back the rank.
    """

    def __init__(
        self,
        tiers: Tiers,
        pre_nms_top_n: Count | Counts = 1000,
        post_nms_top_n: Count = 1000,
        min_size: NotNegative = 0.0,
        score_threshold: Share = 0.0,
        vote_sigma: Positive | None = None,
        across_levels: CountOrZero = 0,
    ):
        super().__init__(
            pre_nms_top_n, post_nms_top_n, min_size=min_size, score_threshold=score_threshold, vote_sigma=vote_sigma
        )
        _check_tiers(tiers)
        self.tiers = [(int(count), float(iou)) for count, iou in tiers]
        self.across_levels = across_levels

    per_level = ("pre_nms_top_n",)

    @property
    def thinning(self) -> str:
        return "tiered NMS"

    def thin(self, boxes: Tensor, scores: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """As `ProposalSelector.thin`; the scores are lowered to descend."""
        order = scores.sort(descending=True, stable=True).indices
        boxes, scores, levels = boxes[order], scores[order], levels[order]
        taken = order.new_empty(0)
        for count, iou in self.tiers:
            compared = torch.zeros_like(levels) if count <= self.across_levels else levels
            nearest = _best_iou_of_level(boxes, compared, taken)
            nearest[taken] = torch.inf
            left = (nearest <= iou).nonzero().squeeze(1)
            found = left[first_of_nms(boxes[left], scores[left], compared[left], iou, count - len(taken))]
            taken = torch.cat((taken, found))
        taken = taken[: self.post_nms_top_n]
        return order[taken], strictly_descending(scores[taken])


@checked
class FittedTieredNMSSelector(TieredNMSSelector):
    """Tiered NMS whose thresholds are those with which the network's proposals find most on training images.

    Training finds them before its first validation and its last, with the weights of that moment, and keeps them in the
    run's config and checkpoints; until then they are those of `tiers`. Which are best depends on the data: where an
    image has few objects, a budget is best spent on further tries at them, and where it has many, on what none has
    covered yet.

    Args:
        tiers: pairs (count, iou): the counts stay, the thresholds are where the search begins.
        images: training images that they are chosen on, evenly spread.
        thresholds: an IoU for each tier; None: not found yet.
        others: as `TieredNMSSelector`'s.
    """

    derived = ("thresholds",)
    """Follow from data and network, which are in a run's identity already."""

    def __init__(
        self,
        tiers: Tiers,
        images: Count = 40,
        pre_nms_top_n: Count | Counts = 1000,
        post_nms_top_n: Count = 1000,
        min_size: NotNegative = 0.0,
        score_threshold: Share = 0.0,
        vote_sigma: Positive | None = None,
        across_levels: CountOrZero = 0,
        thresholds: Shares | None = None,
    ):
        super().__init__(tiers, pre_nms_top_n, post_nms_top_n, min_size, score_threshold, vote_sigma, across_levels)
        self.images = images
        self.is_fitted = False
        if thresholds is not None:
            self.fit(thresholds)

    def fit(self, thresholds: Sequence[float]) -> None:
        """Take an IoU for each tier.

        Raises:
            ValueError: another number of them.
        """
        if len(thresholds) != len(self.tiers):
            raise ValueError(
                f"thresholds={list(thresholds)} has {len(thresholds)} numbers for {len(self.tiers)} tiers: give one "
                "for each."
            )
        self.tiers = [(count, float(iou)) for (count, _), iou in zip(self.tiers, thresholds, strict=True)]
        self.is_fitted = True


def strictly_descending(scores: Tensor) -> Tensor:
    """Scores (P,) float32, at least 0, each lowered to below the one before by as little as float32 knows."""
    number = scores.view(torch.int32)  # ordered as the floats are, and the next smaller float is one less
    rank = torch.arange(len(scores), dtype=torch.int32, device=scores.device)
    lowered = (number + rank).cummin(0).values - rank if len(scores) else number
    return lowered.clamp(min=0).view(torch.float32)


def first_of_nms(boxes: Tensor, scores: Tensor, levels: Tensor, iou: float, count: int) -> Tensor:
    """The first `count` of `batched_nms` for boxes (C, 4) that are sorted by score.

    What NMS keeps of the best few does not depend on the others: more are looked at only where few do not suffice.
    """
    looked_at = max(2 * count, LEAST_LOOKED_AT)
    while True:
        kept = batched_nms(boxes[:looked_at], scores[:looked_at], levels[:looked_at], iou)
        if len(kept) >= count or looked_at >= len(boxes):
            return kept[: max(count, 0)]
        looked_at *= 2


def _best_iou_of_level(boxes: Tensor, levels: Tensor, found: Tensor) -> Tensor:
    """(C,) best IoU of each box with one of those found of its own level, 0 without any."""
    best = boxes.new_zeros(len(boxes))
    for level in levels[found].unique():
        here, new = levels == level, found[levels[found] == level]
        best[here] = pairwise_iou(boxes[here], boxes[new]).amax(dim=1)
    return best


def _check_tiers(tiers: Sequence[tuple[int, float]]) -> None:
    if any(a >= b for (a, _), (b, _) in pairwise(tiers)):
        raise ValueError(
            f"tiers={[list(tier) for tier in tiers]}: give the numbers of proposals in ascending order, as in "
            "[[100,0.7],[1000,0.85]]."
        )
