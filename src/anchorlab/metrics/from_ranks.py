"""Metrics from match ranks: their names, and recall at every N for any subset of images; matches nothing again.

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


class Kind(NamedTuple):
    """A metric without its number of proposals.

    thresholds: the columns of T it is the mean of; area: its key in `AREA_RANGES`.
    title: in a table over N; short: in front of @N.
    """

    thresholds: slice
    area: str
    title: str
    short: str


KINDS = {
    "recall": Kind(slice(AT_50, AT_50 + 1), "all", "recall@N (IoU 0.5)", "recall"),
    "recall_iou70": Kind(slice(AT_70, AT_70 + 1), "all", "recall@N (IoU 0.7)", "recall (IoU 0.7)"),
    "AR": Kind(slice(None), "all", "AR@N (IoU 0.5:0.95)", "AR"),
    "AR_s": Kind(slice(None), "s", "small (area up to 32² px)", "AR small"),
    "AR_m": Kind(slice(None), "m", "medium", "AR medium"),
    "AR_l": Kind(slice(None), "l", "large (from 96² px)", "AR large"),
}
"""Every metric by its name; `recall_100` is the one named recall at 100 proposals per image."""

BUDGETS = (10, 50, 100, 300, 1000)
"""The numbers of proposals per image that runs are scored at."""


@dataclass(frozen=True)
class Metric:
    """One metric by its key: `recall_100`, `recall_iou70_300`, `AR_1000`, `AR_s_100`; any budget from 1."""

    kind: Kind
    budget: int

    @classmethod
    def of(cls, key: str) -> "Metric":
        """The metric of this key.

        Raises:
            ValueError: for a key of another form.
        """
        name, _, budget = key.rpartition("_")
        if name not in KINDS or re.fullmatch(r"[1-9][0-9]*", budget) is None:
            raise ValueError(f"{key} is no metric: write {', '.join(f'{name}_N' for name in KINDS)}, with any N")
        return cls(KINDS[name], int(budget))

    def __str__(self) -> str:
        """As people write it: AR@100, recall (IoU 0.7)@100, AR small@100."""
        return f"{self.kind.short}@{self.budget}"

    @property
    def area(self) -> int:
        """Its column of A."""
        return list(AREA_RANGES).index(self.kind.area)

    def from_table(self, recall: np.ndarray) -> float:
        """The metric from the recall (T, A) at its budget."""
        return float(recall[self.kind.thresholds].mean(axis=0)[self.area])

    def per_image(self, ranks: Ranks) -> tuple[np.ndarray, ...]:
        """Boxes found and boxes wanted of every image, (I,) float64 whole numbers; the sums' quotient is the metric.

        A box counts once for each threshold, found or wanted: whole numbers add up to the same in any order.
        """
        columns = ranks.rank[:, self.kind.thresholds, self.area]
        image = np.repeat(np.arange(len(ranks.num_boxes)), ranks.num_boxes)
        found = (columns < self.budget).sum(axis=1)
        wanted = ranks.counted[:, self.area] * columns.shape[1]
        return tuple(np.bincount(image, values, minlength=len(ranks.num_boxes)) for values in (found, wanted))


def in_table(value: float | None) -> str:
    """A metric in a table: three digits, and a dash where it is missing or had no box to find."""
    return "-" if value is None or value < 0 else f"{value:.3f}"


def metric_keys(budgets: Sequence[int]) -> list[str]:
    """The key of every metric at each of these numbers of proposals."""
    return [f"{name}_{n}" for n in budgets for name in KINDS]


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


def metrics_from_ranks(rank: np.ndarray, counted: np.ndarray, budgets: Sequence[int]) -> dict[str, float]:
    """Every metric by its key (see `Metric`) from the arrays of `Ranks`; one without any box to find is -1."""
    recall = dict(zip(budgets, recall_from_ranks(rank, counted, budgets), strict=True))
    return {key: Metric.of(key).from_table(recall[int(key.rpartition("_")[2])]) for key in metric_keys(budgets)}


def ar_of_oracle(ranks: Ranks, budgets: Sequence[int]) -> dict[str, float]:
    """AR by its key (`AR_100`) of the same proposals, ranked by the IoU that they truly have; -1 without boxes.

    An image's best N then are one for each box that any of its proposals found, as far as N goes: what is missing to
    it is the ranking's, what is missing to 1 the boxes'.
    """
    image = np.repeat(np.arange(len(ranks.num_boxes)), ranks.num_boxes)
    found = np.zeros((len(ranks.num_boxes), len(THRESHOLDS)), dtype=np.int64)
    np.add.at(found, image, ranks.rank[:, :, 0] != UNMATCHED)
    wanted = int(ranks.counted[:, 0].sum()) * len(THRESHOLDS)
    return {f"AR_{n}": float(np.minimum(found, n).sum() / wanted) if wanted else -1.0 for n in budgets}
