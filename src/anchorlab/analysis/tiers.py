"""Thresholds of tiered NMS: those with which the proposals of a trained network find most on some images.

I images | C candidates of one image | G its objects
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import NamedTuple

import numpy as np
from torch import Tensor

from anchorlab.metrics.from_ranks import AT_50, recall_from_ranks
from anchorlab.metrics.recall import match
from anchorlab.rpn.proposals.nms import Candidates
from anchorlab.rpn.proposals.tiered_nms import TieredNMSSelector

BUDGETS = (10, 100, 300, 1000)
FIRST = 100
"""Tiers of up to so many proposals are chosen by what these find, and those behind them by what all find."""
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95)
LEAST_GAIN = 0.001
"""Of the sum of recalls: less is what a box or two make."""

Thresholds = tuple[float, ...]


class Image(NamedTuple):
    """What the network found on one image, and what is there to find, in pixels of the network's input."""

    size: tuple[int, int]  # height, width
    candidates: Candidates  # of this image alone, C
    objects: np.ndarray  # (G, 4) float64
    ignore: np.ndarray  # (G,) bool


def best_thresholds(images: Sequence[Image], selector: TieredNMSSelector) -> list[float]:
    """An IoU for each of the selector's tiers; its own, where none of `THRESHOLDS` finds more.

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
            chosen = _climbed(partial(_worth, images, selector, budgets), chosen, range(first, end))
    return list(chosen)


def _climbed(value: Callable[[Thresholds], float], start: Thresholds, tiers: Sequence[int]) -> Thresholds:
    best, best_value = start, value(start)
    at_rest = 0  # so many tiers in a row are at their best beside the others
    for tier in cycle(tiers):
        before = best
        for threshold in THRESHOLDS:
            other = (*best[:tier], threshold, *best[tier + 1 :])
            if other != best and (reached := value(other)) > best_value + LEAST_GAIN:
                best, best_value = other, reached
        at_rest = at_rest + 1 if best == before else 1
        if at_rest >= len(tiers):
            break
    return best


def _worth(
    images: Sequence[Image], selector: TieredNMSSelector, budgets: Sequence[int], thresholds: Thresholds
) -> float:
    """What the selector's proposals find with these thresholds, of tiers up to the last of `budgets`."""
    tried = copy.copy(selector)
    pairs = zip(selector.tiers, thresholds, strict=True)
    tried.tiers = [(count, iou) for (count, _), iou in pairs if count <= budgets[-1]]
    ranks, counted = [], []
    for image in images:
        proposals = tried.select(image.candidates, 0, image.size)
        boxes, scores = (_float64(values) for values in (proposals.boxes, proposals.scores))
        counted.append(~image.ignore[:, None])
        ranks.append(match(boxes, scores, image.objects, counted[-1], limit=budgets[-1]))
    recall = recall_from_ranks(np.concatenate(ranks), np.concatenate(counted), budgets)[..., 0]  # (N, T)
    return float(recall.mean(axis=1).sum() + recall[-1, AT_50] / 2)


def _float64(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.float64)
