"""Coverage of a data set's boxes by anchors, before any training; it does not predict what a network learns.

    coverage = cover(truth, anchors, assigner)              # one configuration, every box
    metrics = cover_many(truth, [anchors, ...], assigner)   # many, a few numbers each

`truth` is `truth_of(data, "train", BackboneGrids(backbone))`, `anchors` an `AnchorGrid` of the same strides,
`assigner` a `MaxIoUAssigner`, of which the thresholds, the low-quality rule and the border are used.

G: boxes of all images, S: shapes (the anchors of one location on every level), C: configurations, n: some boxes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from anchorlab import notebook
from anchorlab.analysis.closed_form import LevelShape, PlacedBoxes, level_shapes
from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import Assigner, MaxIoUAssigner, yardstick

SIZE_EDGES = (0.0, 16.0, 32.0, 64.0, 128.0, 256.0, np.inf)
RATIO_EDGES = (0.0, 0.25, 0.5, 2**-0.5, 2**0.5, 2.0, 4.0, np.inf)

# Boxes that `cover_many` takes at once: memory is this times the distinct shapes, whatever the data set.
PART = 1 << 17


@dataclass(frozen=True)
class Group:
    """What anchors do for some of the boxes; shares are of these boxes, NaN where there are none."""

    name: str
    boxes: int
    mean_best_iou: float
    recall_50: float  # the best a network can reach that only scores anchors and moves none
    recall_70: float
    coverage: float  # share with an anchor of at least foreground_iou
    saved: float  # share with none, which low-quality matching gives its best anchor
    untouched: float  # share that no anchor overlaps
    positives: float  # expected positives per box


@dataclass(frozen=True, eq=False, repr=False)
class Coverage:
    """What `cover` found for each box.

    best: (G,) float32, the best IoU over all anchors of the box's image, bit for bit that of brute force.
    level, shape: (G,) int64, where it comes from (the finest level, the first shape among equals).
    positives: (G,) int64, anchors expected to say "object" for it: those with an IoU of at least foreground_iou, or
        one where only low-quality matching gives it any. An anchor that two boxes reach counts for both, and ties
        for a low best IoU count once.
    shape_positives: for each level (k,) int64, how many of those each shape gives.
    """

    truth: GroundTruth
    anchors: AnchorGrid
    assigner: MaxIoUAssigner
    best: Tensor
    level: Tensor
    shape: Tensor
    positives: Tensor
    shape_positives: list[Tensor]

    def recall(self, iou: float) -> float:
        """Share of the boxes that some anchor overlaps with at least `iou`; NaN without boxes."""
        return _share(self.best >= iou)

    @cached_property
    def saved(self) -> Tensor:
        """(G,) bool: boxes that have a positive anchor only by low-quality matching."""
        return _saved(self.best, self.assigner)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Single numbers to compare configurations by; shares are of all boxes.

        coverage (share with an IoU of at least foreground_iou), possible_recall_50, possible_recall_70,
        mean_best_iou, saved_by_low_quality, untouched, positives_per_box, positives_per_image.
        """
        whole = self.group("all", torch.ones_like(self.best, dtype=torch.bool))
        return {
            "coverage": whole.coverage,
            "possible_recall_50": whole.recall_50,
            "possible_recall_70": whole.recall_70,
            "mean_best_iou": whole.mean_best_iou,
            "saved_by_low_quality": whole.saved,
            "untouched": whole.untouched,
            "positives_per_box": whole.positives,
            "positives_per_image": float(self.positives.sum()) / max(self.truth.num_images, 1),
        }

    def __repr__(self) -> str:
        share = self.metrics["coverage"]
        return (
            f"Coverage({share:.3f} of {len(self.best)} boxes have an anchor of IoU >= {self.assigner.foreground_iou:g})"
        )

    def _repr_html_(self) -> str:
        threshold = f"IoU >= {self.assigner.foreground_iou:g}"
        heads = ["boxes", "number", threshold, "IoU >= 0.5", "mean best IoU", "anchors a box"]
        groups = [self.group("all", torch.ones_like(self.best, dtype=torch.bool)), *self.by_size(), *self.by_ratio()]
        rows = [[g.name, g.boxes, g.coverage, g.recall_50, g.mean_best_iou, g.positives] for g in groups]
        return notebook.table(heads, rows, "Share of the boxes with an anchor of that IoU; by size, by height / width")

    def by_size(self) -> list[Group]:
        """Groups of the boxes by square root of their area in input pixels; those without boxes are left out."""
        names = _names(SIZE_EDGES, "{:g}", " px")
        return self._groups(names, torch.bucketize(self.truth.size, torch.tensor(SIZE_EDGES[1:-1]), right=True))

    def by_ratio(self) -> list[Group]:
        """Groups by height / width."""
        names = _names(RATIO_EDGES, "{:.2g}", "")
        return self._groups(names, torch.bucketize(self.truth.ratio, torch.tensor(RATIO_EDGES[1:-1]), right=True))

    def by_level(self) -> list[Group]:
        """Groups by the level of the box's best anchor."""
        return self._groups([f"stride {stride}" for stride in self.anchors.strides], self.level)

    def group(self, name: str, chosen: Tensor) -> Group:
        """The metrics of the boxes that are True in `chosen` (G,)."""
        best = self.best[chosen]
        return Group(
            name,
            len(best),
            _mean(best),
            _share(best >= 0.5),
            _share(best >= 0.7),
            _share(best >= self.assigner.foreground_iou),
            _share(self.saved[chosen]),
            _share(best == 0),
            _mean(self.positives[chosen]),
        )

    def worst(self, count: int) -> Tensor:
        """The numbers (n,) of the boxes with the lowest best IoU, worst first; the earlier of equals."""
        return self.best.argsort(stable=True)[:count]

    def _groups(self, names: Sequence[str], which: Tensor) -> list[Group]:
        return [self.group(name, which == i) for i, name in enumerate(names) if bool((which == i).any())]


def cover(truth: GroundTruth, anchors: AnchorGrid, assigner: Assigner) -> Coverage:
    """Every box's best IoU, where it comes from, and its expected positives (`yardstick` of the assigner).

    Raises ValueError where anchors and ground truth were made for different numbers of levels.
    """
    assigner = yardstick(assigner)
    levels, keys = PlacedBoxes(truth, assigner.border), level_shapes(anchors, truth)
    estimate = torch.empty(len(keys), len(truth))
    for row, key in zip(estimate, keys, strict=True):
        levels.estimate(key, row)
    slack = [levels.tolerance(key) for key in keys]
    best, which = _best(keys, levels, estimate, slack)
    positives, per_key = torch.zeros(len(truth), dtype=torch.int64), torch.zeros(len(keys), dtype=torch.int64)
    for i, key in enumerate(keys):
        boxes = (estimate[i] >= assigner.foreground_iou - slack[i]).nonzero().squeeze(1)
        count = levels.count_above(key, assigner.foreground_iou, boxes)
        positives[boxes] += count
        per_key[i] = count.sum()
    # One at least: the best anchor itself, where rounding hid it from the count, or low-quality matching.
    alone = (positives == 0) & ((best >= assigner.foreground_iou) | _saved(best, assigner))
    positives[alone] = 1
    per_key += torch.bincount(which[alone], minlength=len(keys))
    level = torch.tensor([key.level for key in keys], dtype=torch.int64)
    number = torch.cat([torch.arange(k) for k in anchors.num_anchors])
    per_level = list(per_key.split(list(anchors.num_anchors)))
    return Coverage(truth, anchors, assigner, best, level[which], number[which], positives, per_level)


def cover_many(
    truth: GroundTruth,
    configurations: Sequence[AnchorGrid],
    assigner: Assigner,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, float]]:
    """The metrics of many configurations, each distinct shape of a level computed once.

    Those of `Coverage.metrics` without the positives. Shares equal those of `cover` exactly, mean_best_iou to 1e-4.
    `progress` is called with the boxes done and all boxes.
    """
    assigner = yardstick(assigner)
    rows: dict[LevelShape, int] = {}
    members = [[rows.setdefault(key, len(rows)) for key in level_shapes(anchors, truth)] for anchors in configurations]
    tally = np.zeros((len(configurations), len(_TALLIED)))
    for start in range(0, len(truth), PART):
        part = truth.part(slice(start, start + PART))
        table = _table(PlacedBoxes(part, assigner.border), list(rows), assigner)
        for i, member in enumerate(members):
            tally[i] += _tally(_row_maximum(table, member), assigner)
        if progress is not None:
            progress(min(start + PART, len(truth)), len(truth))
    shares = tally / len(truth) if len(truth) else np.full_like(tally, np.nan)
    return [dict(zip(_TALLIED, row.tolist(), strict=True)) for row in shares]


_TALLIED = (
    "coverage",
    "possible_recall_50",
    "possible_recall_70",
    "mean_best_iou",
    "saved_by_low_quality",
    "untouched",
)


def _best(
    keys: Sequence[LevelShape], levels: PlacedBoxes, estimate: Tensor, slack: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The best IoU (G,) over all shapes and the first of the shapes that have it, from the estimates (S, G).

    Only shapes whose estimate comes near a box's best one are computed exactly for it: about one.
    """
    least = torch.full_like(estimate[0], -torch.inf)
    for row, lost in zip(estimate, slack, strict=True):
        torch.maximum(least, row - lost, out=least)
    best, which = torch.full_like(least, -1.0), torch.zeros(len(least), dtype=torch.int64)
    for i, key in enumerate(keys):
        boxes = (estimate[i] + slack[i] >= least).nonzero().squeeze(1)
        iou = levels.exact(key, boxes)
        better = iou > best[boxes]
        best[boxes[better]] = iou[better]
        which[boxes[better]] = i
    return best, which


def _table(levels: PlacedBoxes, keys: Sequence[LevelShape], assigner: MaxIoUAssigner) -> Tensor:
    """Estimates (S, G) that lie on the right side of every threshold they are compared with."""
    table = torch.empty(len(keys), len(levels))
    limits = {0.0, 0.5, 0.7, assigner.foreground_iou, assigner.low_quality_floor or 0.0}
    for row, key in zip(table, keys, strict=True):
        levels.estimate(key, row)
        slack = levels.tolerance(key)
        doubtful = torch.zeros_like(row, dtype=torch.bool)
        for limit in limits:
            doubtful |= (row - limit).abs() <= slack
        boxes = doubtful.nonzero().squeeze(1)
        row[boxes] = levels.exact(key, boxes)
    return table


def _row_maximum(table: Tensor, rows: Sequence[int]) -> Tensor:
    best = table[rows[0]].clone()
    for row in rows[1:]:
        torch.maximum(best, table[row], out=best)
    return best


def _tally(best: Tensor, assigner: MaxIoUAssigner) -> list[float]:
    """Sums over boxes of what `_TALLIED` names."""
    reached = {limit: int((best >= limit).count_nonzero()) for limit in {assigner.foreground_iou, 0.5, 0.7}}
    untouched = len(best) - int(best.count_nonzero())
    floor = assigner.low_quality_floor or 0.0
    below = untouched if floor == 0 else int((best <= floor).count_nonzero())
    covered = reached[assigner.foreground_iou]
    saved = max(len(best) - covered - below, 0) if assigner.low_quality else 0
    return [covered, reached[0.5], reached[0.7], float(best.sum(dtype=torch.float64)), saved, untouched]


def _saved(best: Tensor, assigner: MaxIoUAssigner) -> Tensor:
    """Which boxes (G,) have no anchor of foreground_iou, but a best one that low-quality matching makes positive.

    Without a floor the assigner gives all anchors to a box that none touches; that saves nobody, and is not counted.
    """
    if not assigner.low_quality:
        return torch.zeros_like(best, dtype=torch.bool)
    return (best < assigner.foreground_iou) & (best > (assigner.low_quality_floor or 0.0))


def _share(holds: Tensor) -> float:
    return _mean(holds)


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if len(values) else float("nan")


def _names(edges: Sequence[float], form: str, unit: str) -> list[str]:
    """What to call the groups between the edges."""
    inner = [form.format(edge) for edge in edges[1:-1]]
    middle = [f"{low} to {high}{unit}" for low, high in pairwise(inner)]
    return [f"below {inner[0]}{unit}", *middle, f"from {inner[-1]}{unit}"]
