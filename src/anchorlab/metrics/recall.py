"""Proposal recall: matches as COCO does and keeps the rank that finds each box; proposes nothing.

It is not a detection metric: no classes, no precision, and proposals that hit nothing cost nothing.

Two facts make the matching small. COCO lets a proposal take an ignored box (a crowd, or one outside the area
range) only when no counted box is left for it, and such a match scores nothing: ignored boxes can be left out
altogether. And COCO serves proposals best score first, so the matching of N proposals is the beginning of the
matching of all of them: one rank per box holds recall at every N.

P  proposals of one image              T  IoU thresholds, 0.50:0.05:0.95
G  ground-truth boxes of one image     A  area ranges: all, small, medium, large
I  images                              N  budgets: how many proposals an image may use
R  ground-truth boxes of all images
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from anchorlab.metrics.from_ranks import (
    AREA_RANGES,
    BUDGETS,
    THRESHOLDS,
    UNMATCHED,
    Ranks,
    metrics_from_ranks,
    recall_from_ranks,
)

AREA_LOW, AREA_HIGH = np.array(list(AREA_RANGES.values())).T

# More than float32 loses of coordinates of at most 1 on the way to an area.
SLACK = 2.0**-20


class ProposalRecall(Metric):
    """recall@N and AR@N of class-free proposals: pycocotools' COCOeval with `useCats=0`, `maxDets=budgets`.

    `compute` gives, for each budget N, `recall_N` (IoU 0.5), `recall_iou70_N`, `AR_N` (mean over the
    thresholds) and `AR_s_N`, `AR_m_N`, `AR_l_N` (by annotation area); a metric without any box to find is -1.

    Images are counted by `index`: one that a distributed sampler repeats counts once, and neither the number
    of processes nor the order of the images changes a bit of any metric. `compute`, `ranks` and `table`
    gather over the processes, so every process calls them or none does.

    Args:
        budgets: how many of an image's best proposals are used, each at least 1.

    Raises:
        ValueError: for a budget that is no positive whole number.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    index: list[Tensor]
    num_boxes: list[Tensor]
    rank: list[Tensor]
    counted: list[Tensor]

    # One dimension each, for torchmetrics to gather uneven ones; no int16 or bool, which gloo and NCCL lack.
    _STATES: ClassVar = {
        "index": torch.int64,
        "num_boxes": torch.int32,
        "rank": torch.int32,
        "counted": torch.uint8,
    }

    def __init__(self, budgets: Sequence[int] = BUDGETS) -> None:
        super().__init__()
        self.budgets = check_budgets(budgets)
        self._merged: Ranks | None = None
        for name in self._STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self,
        index: int,
        boxes: Tensor | np.ndarray,
        scores: Tensor | np.ndarray,
        gt_boxes: Tensor | np.ndarray,
        gt_area: Tensor | np.ndarray,
        gt_ignore: Tensor | np.ndarray,
        gt_known: Tensor | np.ndarray | None = None,
    ) -> None:
        """Match one image; boxes are xyxy in *original* pixels.

        All arithmetic is float64: widen proposals before dividing them by their image's scale.

        Args:
            index: the image's row in its split, its identity here.
            boxes: (P, 4) proposals in any order; P may be 0 or exceed the largest budget.
            scores: (P,) of equal ones the earlier comes first.
            gt_boxes: (G, 4); G may be 0.
            gt_area: (G,) the annotation's area, which need not be the box's.
            gt_ignore: (G,) bool; ignored boxes (crowd, difficult) are never counted.
            gt_known: (G,) bool; boxes of categories that were trained on, where the others are scored. They are not
                counted, and proposals that find them use up no budget (`finds_known`). None: there are none.

        Raises:
            FloatingPointError: for a proposal or score that is NaN or infinite.
        """
        boxes, scores = _numpy(boxes, np.float64).reshape(-1, 4), _numpy(scores, np.float64)
        assert len(boxes) == len(scores)
        assert len(gt_boxes) == len(gt_area) == len(gt_ignore)
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise FloatingPointError(f"image {index}: a proposal or its score is NaN or infinite")
        ignore, gt_boxes = _numpy(gt_ignore, np.bool_), _numpy(gt_boxes, np.float64).reshape(-1, 4)
        known = np.zeros_like(ignore) if gt_known is None else _numpy(gt_known, np.bool_)
        counted = counted_by_area(_numpy(gt_area, np.float64), ignore | known)
        if known.any():
            others = ~finds_known(boxes, scores, gt_boxes, counted[:, 0], known & ~ignore)
            boxes, scores = boxes[others], scores[others]
        rank = match(boxes, scores, gt_boxes, counted, limit=self.budgets[-1])
        self._append(np.array([index]), np.array([len(counted)]), rank.ravel(), counted.ravel())

    def compute(self) -> dict[str, float]:
        """Every metric by its key, over the images of all processes."""
        self._merged = merge(**{name: self._state(name) for name in self._STATES})
        return metrics_from_ranks(self._merged.rank, self._merged.counted, self.budgets)

    def matches(self) -> Ranks:
        """The matches of the images of all processes."""
        self.compute()  # torchmetrics returns at once where nothing has changed since the last call
        assert self._merged is not None
        return self._merged

    def ranks(self) -> dict[str, np.ndarray]:
        """What `recall.npz` holds: `Ranks`, with `thresholds` (T,), `areas` (A,) and `budgets` (N,)."""
        axes = {
            "thresholds": THRESHOLDS,
            "areas": np.array(list(AREA_RANGES)),
            "budgets": np.array(self.budgets),
        }
        return self.matches()._asdict() | axes

    def table(self) -> np.ndarray:
        """(N, T) recall of boxes of every size, one row a budget, one column an IoU threshold."""
        merged = self.matches()
        return recall_from_ranks(merged.rank, merged.counted, self.budgets)[:, :, 0]

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # torchmetrics would gather a process without images as empty *floats* beside the others' integers.
        for name, dtype in self._STATES.items():
            if isinstance(getattr(self, name), list) and not getattr(self, name):
                setattr(self, name, [torch.zeros(0, dtype=dtype, device=self.device)])
        super().sync(*args, **kwargs)

    def reset(self) -> None:
        super().reset()
        self._merged = None

    def _append(self, *rows: np.ndarray) -> None:
        """One image's rows of each state, in the order of `_STATES`."""
        for (name, dtype), values in zip(self._STATES.items(), rows, strict=True):
            getattr(self, name).append(torch.from_numpy(values).to(self.device, dtype))

    def _state(self, name: str) -> np.ndarray:
        rows = getattr(self, name)
        empty = torch.zeros(0, dtype=self._STATES[name])
        return (dim_zero_cat(rows) if len(rows) else empty).cpu().numpy()


def check_budgets(budgets: Sequence[int]) -> tuple[int, ...]:
    """The budgets in ascending order, each once."""
    if not budgets or any(isinstance(n, bool) or n != int(n) or n < 1 for n in budgets):
        raise ValueError(
            f"recall.budgets={list(budgets)}: give whole numbers of proposals from 1, as in [10, 100, 1000]"
        )
    return tuple(sorted({int(n) for n in budgets}))


def counted_by_area(area: np.ndarray, ignore: np.ndarray) -> np.ndarray:
    """(G, A) bool: the boxes each area range looks for, from annotated areas (G,) and ignore flags (G,)."""
    return (area[:, None] >= AREA_LOW) & (area[:, None] <= AREA_HIGH) & ~ignore[:, None]


def match(boxes: np.ndarray, scores: np.ndarray, gt_boxes: np.ndarray, counted: np.ndarray, limit: int) -> np.ndarray:
    """The rank at which each box is found, for every threshold and area range.

    Args:
        boxes: (P, 4) float64 xyxy, and their scores (P,).
        gt_boxes: (G, 4) float64 xyxy.
        counted: (G, A) bool, from `counted_by_area`.
        limit: only this many best-scored proposals take part.

    Returns:
        (G, T, A) int32: position of the matched proposal in order of score, or `UNMATCHED`.
    """
    wanted = np.flatnonzero(counted[:, 0])
    rank, box, iou = pairs_above_half(boxes.take(_best_first(scores)[:limit], axis=0), gt_boxes[wanted])
    box = wanted[box]
    found = np.where(counted[:, None], _first_ranks(rank, box, iou, len(counted))[..., None], UNMATCHED)
    # Boxes share a proposal only where they overlap much themselves: the others have no rival to wait for.
    contested = np.zeros(len(counted), dtype=bool)
    contested[box[np.bincount(rank, minlength=1)[rank] > 1]] = True
    if contested.any():
        pair = contested[box]
        settled = _settle(rank[pair], box[pair], iou[pair], counted, limit)
        found[contested] = settled[contested]
    return found.astype(np.int32)


def finds_known(
    boxes: np.ndarray, scores: np.ndarray, gt_boxes: np.ndarray, counted: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """Which proposals (P,) find an object of a known category and none that counts: they are no wrong answers.

    As in the evaluation of unseen categories of OLN (Kim et al. 2022, section 4.1, and its code): one-to-one at IoU
    0.5, best score first, each proposal takes a box that counts, or else a known one. A second proposal on a known
    object is therefore not among them. Crowds of known categories take none.

    Args:
        boxes: (P, 4) float64 xyxy, and their scores (P,).
        gt_boxes: (G, 4) float64 xyxy; counted, known: (G,) bool, no box is both.
    """
    free = np.ones(len(boxes), dtype=bool)
    for wanted in (counted, known):
        order = np.flatnonzero(free)
        rank = match(boxes[order], scores[order], gt_boxes, wanted[:, None], limit=max(len(order), 1))[:, 0, 0]
        best_first = order[_best_first(scores[order])]
        found = best_first[rank[rank != UNMATCHED]]
        free[found] = False
    finds = np.zeros(len(boxes), dtype=bool)
    finds[found] = True
    return finds


def serve_in_order(proposer: np.ndarray, box: np.ndarray, num_boxes: int) -> np.ndarray:
    """Greedy one-to-one matching: each proposer in turn takes the first box on its list that is still free.

    Nobody need wait for a turn: let every proposer ask for the first box on its list, and each box promise
    itself to the earliest asker. Who comes later than a box's promise can never have it, so the box leaves
    that list; ask again until no list changes. This is deferred acceptance (Gale and Shapley 1962) where all
    boxes prefer the earlier proposer, and its one stable matching is the greedy one.

    Args:
        proposer: (n,) ascending, smaller comes first; one proposer's entries are its list, best box first.
        box: (n,) the box of each entry, below num_boxes.

    Returns:
        (num_boxes,) int64: the proposer that got each box, -1 where nobody did.
    """
    while True:
        first = np.flatnonzero(np.diff(proposer, prepend=-1))[::-1]
        promised = np.full(num_boxes, -1)
        promised[box[first]] = proposer[first]  # written latest asker first: the earliest one stays
        possible = (proposer <= promised[box]) | (promised[box] < 0)
        if possible.all():
            return promised
        proposer, box = proposer[possible], box[possible]


def iou_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes (..., 4) with boxes (..., 4) that broadcast, float64 xyxy, in the steps of pycocotools' `bbIou`.

    It works on (x, y, width, height) and gets the right edge back as x + width, which may miss x2 by the last
    bit.
    """
    ax, ay, aw, ah = _xywh(a)
    bx, by, bw, bh = _xywh(b)
    width = np.minimum(aw + ax, bw + bx) - np.maximum(ax, bx)
    height = np.minimum(ah + ay, bh + by) - np.maximum(ay, by)
    inside = (width > 0) & (height > 0)
    intersection = np.where(inside, width * height, 0.0)
    union = aw * ah + bw * bh - intersection
    return intersection / np.where(inside, union, 1.0)


def pairs_above_half(boxes: np.ndarray, gt_boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Proposal, box and IoU of all pairs at IoU >= 0.5, box by box, the proposals of each in their order."""
    box, proposal = np.divmod(np.flatnonzero(_may_overlap(boxes, gt_boxes)), max(len(boxes), 1))
    iou = iou_of(gt_boxes.take(box, axis=0), boxes.take(proposal, axis=0))
    reached = iou >= THRESHOLDS[0]
    return proposal[reached], box[reached], iou[reached]


def merge(index: np.ndarray, num_boxes: np.ndarray, rank: np.ndarray, counted: np.ndarray) -> Ranks:
    """Rows of all processes, flat and in any order, as one `Ranks` in which each image occurs once.

    Raises:
        ValueError: where two images of different numbers of boxes share an index.
    """
    unique, first, repeat_of = np.unique(index, return_index=True, return_inverse=True)
    if (num_boxes != num_boxes[first][repeat_of]).any():
        clash = index[num_boxes != num_boxes[first][repeat_of]][0]
        raise ValueError(f"two different images were scored under index {clash}: give each image of the split its own")
    starts = np.cumsum(num_boxes) - num_boxes
    kept = num_boxes[first]
    rows = np.arange(kept.sum()) + np.repeat(starts[first] - (np.cumsum(kept) - kept), kept)
    num_areas = len(AREA_RANGES)
    rank = rank.reshape(-1, len(THRESHOLDS), num_areas)[rows]
    return Ranks(unique, kept, rank, counted.reshape(-1, num_areas)[rows].astype(bool))


def _best_first(scores: np.ndarray) -> np.ndarray:
    """The order (P,) of falling scores (P,), equal ones in their own order."""
    order = np.argsort(-scores)
    ordered = scores[order]
    # A stable sort is several times slower, and wanted only where scores are equal.
    return np.argsort(-scores, kind="stable") if (ordered[1:] == ordered[:-1]).any() else order


def _may_overlap(boxes: np.ndarray, gt_boxes: np.ndarray) -> np.ndarray:
    """(G, P) bool: False only where an IoU of 0.5 is out of the question, judged in float32 with some slack.

    That settles nearly all pairs; the exact IoU is slower and left to the others.
    """
    largest = max(np.abs(boxes).max(initial=0.0), np.abs(gt_boxes).max(initial=0.0), np.finfo(np.float64).tiny)
    x1, y1, x2, y2, third = _in_float32(boxes / largest)
    gt_x1, gt_y1, gt_x2, gt_y2, gt_third = _in_float32(gt_boxes / largest)[..., None]
    width = np.minimum(x2, gt_x2)
    width -= np.maximum(x1, gt_x1)
    height = np.minimum(y2, gt_y2)
    height -= np.maximum(y1, gt_y1)
    intersection = np.maximum(width, 0, out=width)
    intersection *= height
    # IoU >= 0.5: the intersection is at least a third of the sum of both areas.
    return intersection >= np.add(third, gt_third, out=height)


def _in_float32(boxes: np.ndarray) -> np.ndarray:
    """(5, n): x1, y1, x2, y2, the last two with slack, and a third of the area, of boxes (n, 4) of float64."""
    x1, y1, x2, y2 = boxes.T
    return np.array([x1, y1, x2 + SLACK, y2 + SLACK, (x2 - x1) * (y2 - y1) / 3], dtype=np.float32)


def _first_ranks(rank: np.ndarray, box: np.ndarray, iou: np.ndarray, num_boxes: int) -> np.ndarray:
    """(G, T): the best proposal that reaches each threshold with each box, or `UNMATCHED`."""
    highest = np.searchsorted(THRESHOLDS, iou, side="right") - 1
    first = np.full(num_boxes * len(THRESHOLDS), UNMATCHED)
    np.minimum.at(first, box * len(THRESHOLDS) + highest, rank)
    return np.minimum.accumulate(first.reshape(num_boxes, len(THRESHOLDS))[:, ::-1], axis=1)[:, ::-1]


def _settle(rank: np.ndarray, box: np.ndarray, iou: np.ndarray, counted: np.ndarray, limit: int) -> np.ndarray:
    """(G, T, A): the ranks that find boxes which compete for proposals, or `UNMATCHED`.

    A proposal prefers the box of highest IoU and, among equals, the later one: pycocotools replaces its
    candidate whenever the next is no worse.
    """
    num_boxes, num_areas = counted.shape
    shape = (len(THRESHOLDS), num_areas, num_boxes)
    by_choice = np.lexsort((-box, -iou, rank))
    rank, box, iou = rank[by_choice], box[by_choice], iou[by_choice]
    # One matching problem per threshold and area range; nonzero lists (T, A, pairs) problem by problem.
    t, a, pair = np.nonzero((iou >= THRESHOLDS[:, None, None]) & counted[box].T)
    problem = t * num_areas + a
    proposer, box_of_problem = problem * limit + rank[pair], problem * num_boxes + box[pair]
    winner = serve_in_order(proposer, box_of_problem, math.prod(shape)).reshape(shape)
    return np.where(winner < 0, UNMATCHED, winner % limit).transpose(2, 0, 1)


def _xywh(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    x1, y1, x2, y2 = (boxes[..., i] for i in range(4))
    return x1, y1, x2 - x1, y2 - y1


def _numpy(values: Tensor | np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=dtype)
