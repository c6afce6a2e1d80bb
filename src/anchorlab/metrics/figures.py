"""Metrics from match ranks: recall at every N, for any subset of images; matches nothing again.

`recall.py` finds the ranks and `recall.npz` keeps them; this module is their arithmetic, on numpy alone, so that
whoever reads a run's folder needs no torch.

R  ground-truth boxes of all images    T  IoU thresholds, 0.50:0.05:0.95
I  images                              A  area ranges: all, small, medium, large
                                       N  budgets: how many proposals an image may use
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# As pycocotools builds them, so that an IoU on a threshold falls on the same side.
THRESHOLDS = np.linspace(0.5, 0.95, 10)
AT_50, AT_70 = 0, 4

# Square pixels, both ends included: an area of exactly 32² is small and medium.
AREA_RANGES = {"all": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}

UNMATCHED = int(np.iinfo(np.int32).max)
"""The rank of a box that no proposal found: worse than any budget."""


class Ranks(NamedTuple):
    """The matches of a set of images, ordered by index, each image once.

    index      (I,) int64        the image's row in its split
    num_boxes  (I,) int32        its boxes, ignored ones included; the rows below follow in this order
    rank       (R, T, A) int32   position (0 = best score) of the proposal that found the box, or `UNMATCHED`
    counted    (R, A) bool       whether the area range counts the box; where not, its rank is `UNMATCHED`
    """

    index: np.ndarray
    num_boxes: np.ndarray
    rank: np.ndarray
    counted: np.ndarray


@dataclass(frozen=True)
class Figure:
    """One figure by its key: `recall_100`, `recall_iou70_300`, `AR_1000`, `AR_s_100`; any budget from 1.

    Attributes:
        thresholds: the columns of T it is the mean of.
        area: its column of A.
        budget: N.
    """

    thresholds: slice
    area: int
    budget: int

    _KEY = re.compile(r"(recall|recall_iou70|AR|AR_s|AR_m|AR_l)_([1-9]\d*)")

    @classmethod
    def of(cls, key: str) -> "Figure":
        """The figure of this key.

        Raises:
            ValueError: for a key of another form.
        """
        found = cls._KEY.fullmatch(key)
        if found is None:
            raise ValueError(f"{key} is no figure: write AR_100, AR_s_100, recall_100 or recall_iou70_100, with any N")
        name, budget = found[1], int(found[2])
        if name.startswith("recall"):
            column = AT_70 if name.endswith("70") else AT_50
            return cls(slice(column, column + 1), 0, budget)
        return cls(slice(None), ["AR", "AR_s", "AR_m", "AR_l"].index(name), budget)

    def from_table(self, recall: np.ndarray) -> float:
        """The figure from the recall (T, A) at its budget."""
        return float(recall[self.thresholds].mean(axis=0)[self.area])

    def per_image(self, ranks: Ranks) -> tuple[np.ndarray, ...]:
        """Boxes found and boxes wanted of every image, (I,) float64 whole numbers; the sums' quotient is the figure.

        A box counts once for each threshold, found or wanted: whole numbers add up to the same in any order.
        """
        columns = ranks.rank[:, self.thresholds, self.area]
        image = np.repeat(np.arange(len(ranks.num_boxes)), ranks.num_boxes)
        found = (columns < self.budget).sum(axis=1)
        wanted = ranks.counted[:, self.area] * columns.shape[1]
        return tuple(np.bincount(image, values, minlength=len(ranks.num_boxes)) for values in (found, wanted))


def found_within(rank: np.ndarray, budgets: Sequence[int]) -> np.ndarray:
    """(N, T, A) int64 number of boxes of `rank` (R, T, A) that the best n proposals found, for each n of `budgets`."""
    last, cells = int(max(budgets)), rank.shape[1] * rank.shape[2]
    slot = np.minimum(rank, last).reshape(-1, cells) + np.arange(cells) * (last + 1)
    histogram = np.bincount(slot.ravel(), minlength=cells * (last + 1)).reshape(cells, last + 1)
    at_most = histogram.cumsum(axis=1)  # the best n proposals found the ranks up to n - 1
    return at_most[:, np.asarray(budgets) - 1].T.reshape(-1, *rank.shape[1:])


def recall_from_ranks(rank: np.ndarray, counted: np.ndarray, budgets: Sequence[int]) -> np.ndarray:
    """(N, T, A) share of the counted boxes that the best N proposals found; -1 where none is counted.

    Args:
        rank: (R, T, A), and counted (R, A), as in `Ranks`; any rows of them will do (a bootstrap sample,
            say).
    """
    total = counted.sum(axis=0)
    return np.where(total > 0, found_within(rank, budgets) / np.maximum(total, 1), -1.0)


def figures_from_ranks(rank: np.ndarray, counted: np.ndarray, budgets: Sequence[int]) -> dict[str, float]:
    """Every figure by its key (see `Figure`) from the arrays of `Ranks`; one without any box to find is -1."""
    names = ("recall", "recall_iou70", "AR", "AR_s", "AR_m", "AR_l")
    recall = dict(zip(budgets, recall_from_ranks(rank, counted, budgets), strict=True))
    keys = [f"{name}_{n}" for n in budgets for name in names]
    return {key: (figure := Figure.of(key)).from_table(recall[figure.budget]) for key in keys}
