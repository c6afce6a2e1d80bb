"""Thresholds of tiered NMS: those with which the proposals of a trained network find most on some images.

I images | C candidates of one image | G its objects | T IoU thresholds of recall
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import NamedTuple

import numpy as np
from torch import Tensor

from anchorlab.metrics.from_ranks import AT_50
from anchorlab.metrics.recall import match
from anchorlab.rpn.proposals.nms import Candidates
from anchorlab.rpn.proposals.tiered_nms import TieredNMSSelector

BUDGETS = (10, 100, 300, 1000)
FIRST = 100
"""Tiers of up to so many proposals are chosen by what these find, and those behind them by what all find."""
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95)
COVERING = (0.5, 0.7)
"""Those that the last of several tiers behind `FIRST` may have: it is for objects that no proposal covers yet.

Images that the network has learnt cannot say what that is worth, as nearly each of their objects is found by then.
"""
SURE = 2.0
"""Standard errors, over images, by which another threshold has to find more."""

Thresholds = tuple[float, ...]


class Image(NamedTuple):
    """What the network found on one image, and what is there to find, in pixels of the network's input."""

    size: tuple[int, int]  # height, width
    candidates: Candidates  # of this image alone, C
    objects: np.ndarray  # (G, 4) float64
    ignore: np.ndarray  # (G,) bool


def best_thresholds(images: Sequence[Image], selector: TieredNMSSelector) -> list[float]:
    """An IoU for each of the selector's tiers; its own, where no other surely finds more.

    One after the other is moved to its best value, until none moves. Best is the largest sum of AR@N over `BUDGETS`
    and half of the recall at IoU 0.5 of the last: AR alone would pay for tighter boxes with objects that none finds.
    """
    counts = [count for count, _ in selector.tiers]
    chosen: Thresholds = tuple(iou for _, iou in selector.tiers)
    early = sum(count <= FIRST for count in counts)
    for first, end in ((0, early), (early, len(counts))):
        if first < end:
            least, most = counts[first - 1] if first else 0, counts[end - 1]
            budgets = [*(n for n in BUDGETS if least < n < most), most]
            covering = end - 1 if first == early and end - first > 1 else None
            tried = {tier: COVERING if tier == covering else THRESHOLDS for tier in range(first, end)}
            chosen = _climbed(partial(_worth, images, selector, budgets), chosen, tried)
    return list(chosen)


def _climbed(
    value: Callable[[Thresholds], np.ndarray], start: Thresholds, tried: Mapping[int, Sequence[float]]
) -> Thresholds:
    """`start` with tiers moved, each to one of those that are `tried` for it; `value`: what each image adds, (I,)."""
    best, best_value = start, value(start)
    order, at_rest = cycle(tried), 0  # so many tiers in a row are at their best beside the others
    while at_rest < len(tried):
        tier = next(order)
        others = [(*best[:tier], threshold, *best[tier + 1 :]) for threshold in tried[tier] if threshold != best[tier]]
        values = {other: value(other) for other in others}
        more = {other: reached for other, reached in values.items() if _surely_more(reached - best_value)}
        at_rest = 1 if more else at_rest + 1
        if more:
            best, best_value = max(more.items(), key=lambda item: item[1].sum())
    return best


def _surely_more(gains: np.ndarray) -> bool:
    """Whether the sum of the images' gains (I,) is more than what the choice of images could make."""
    error = np.sqrt(len(gains)) * gains.std(ddof=1) if len(gains) > 1 else 0.0
    return bool(gains.sum() > SURE * error)


def _worth(
    images: Sequence[Image], selector: TieredNMSSelector, budgets: Sequence[int], thresholds: Thresholds
) -> np.ndarray:
    """What each image adds (I,) to what proposals find with these thresholds, of tiers up to the last of `budgets`."""
    tried = copy.copy(selector)
    pairs = zip(selector.tiers, thresholds, strict=True)
    tried.tiers = [(count, iou) for (count, _), iou in pairs if count <= budgets[-1]]
    found = []
    for image in images:
        proposals = tried.select(image.candidates, 0, image.size)
        boxes, scores = (_float64(values) for values in (proposals.boxes, proposals.scores))
        rank = match(boxes, scores, image.objects, ~image.ignore[:, None], limit=budgets[-1])[..., 0]  # (G, T)
        shares = [(rank < budget).mean(axis=1).sum() for budget in budgets]
        found.append(sum(shares) + (rank[:, AT_50] < budgets[-1]).sum() / 2)
    objects = sum(int((~image.ignore).sum()) for image in images)
    return np.array(found) / max(objects, 1)


def _float64(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.float64)
