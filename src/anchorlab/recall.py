"""How many objects do an image's best N proposals find? COCO's answer, kept as the rank that finds each box.

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

from anchorlab.ranks import AREA_RANGES, THRESHOLDS, UNMATCHED, Ranks, figures_from_ranks, recall_from_ranks


class ProposalRecall(Metric):
    """recall@N and AR@N of class-free proposals: pycocotools' COCOeval with `useCats=0`, `maxDets=budgets`.

    `compute` gives, for each budget N, `recall_N` (IoU 0.5), `recall_iou70_N`, `AR_N` (mean over the
    thresholds) and `AR_s_N`, `AR_m_N`, `AR_l_N` (by annotation area); a figure without any box to find is -1.

    Images are counted by `index`: one that a distributed sampler repeats counts once, and neither the number
    of processes nor the order of the images changes a bit of any figure. `compute`, `ranks` and `table`
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

    def __init__(self, budgets: Sequence[int] = (10, 50, 100, 300, 1000)) -> None:
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

        Raises:
            FloatingPointError: for a proposal or score that is NaN or infinite.
        """
        boxes, scores = _float64(boxes).reshape(-1, 4), _float64(scores)
        assert len(boxes) == len(scores)
        assert len(gt_boxes) == len(gt_area) == len(gt_ignore)
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise FloatingPointError(f"image {index}: a proposal or its score is NaN or infinite")
        counted = counted_by_area(_float64(gt_area), np.asarray(torch.as_tensor(gt_ignore).cpu(), dtype=bool))
        rank = match(boxes, scores, _float64(gt_boxes).reshape(-1, 4), counted, limit=self.budgets[-1])
        self._append(index=[index], num_boxes=[len(counted)], rank=rank.ravel(), counted=counted.ravel())

    def compute(self) -> dict[str, float]:
        """Every figure by its key, over the images of all processes."""
        self._merged = merge(**{name: self._state(name) for name in self._STATES})
        return figures_from_ranks(self._merged.rank, self._merged.counted, self.budgets)

    def ranks(self) -> dict[str, np.ndarray]:
        """What `recall.npz` holds: `Ranks`, with `thresholds` (T,), `areas` (A,) and `budgets` (N,)."""
        axes = {
            "thresholds": THRESHOLDS,
            "areas": np.array(list(AREA_RANGES)),
            "budgets": np.array(self.budgets),
        }
        return self._merge()._asdict() | axes

    def table(self) -> np.ndarray:
        """(N, T) recall of boxes of every size, one row a budget, one column an IoU threshold."""
        merged = self._merge()
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

    def _append(self, **rows: Any) -> None:
        for name, values in rows.items():
            getattr(self, name).append(torch.as_tensor(values, dtype=self._STATES[name], device=self.device))

    def _state(self, name: str) -> np.ndarray:
        rows = getattr(self, name)
        empty = torch.zeros(0, dtype=self._STATES[name])
        return (dim_zero_cat(rows) if len(rows) else empty).cpu().numpy()

    def _merge(self) -> Ranks:
        self.compute()  # torchmetrics returns at once where nothing has changed since the last call
        assert self._merged is not None
        return self._merged


def check_budgets(budgets: Sequence[int]) -> tuple[int, ...]:
    """The budgets in ascending order, each once."""
    if not budgets or any(isinstance(n, bool) or n != int(n) or n < 1 for n in budgets):
        raise ValueError(
            f"recall.budgets={list(budgets)}: give whole numbers of proposals from 1, as in [10, 100, 1000]"
        )
    return tuple(sorted({int(n) for n in budgets}))


def counted_by_area(area: np.ndarray, ignore: np.ndarray) -> np.ndarray:
    """(G, A) bool: the boxes each area range looks for, from annotated areas (G,) and ignore flags (G,)."""
    low, high = np.array(list(AREA_RANGES.values())).T
    return (area[:, None] >= low) & (area[:, None] <= high) & ~ignore[:, None]


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
    num_boxes, num_areas = counted.shape
    shape = (len(THRESHOLDS), num_areas, num_boxes)
    best_first = np.argsort(-scores, kind="stable")[:limit]
    rank, box, iou = _pairs(boxes[best_first], gt_boxes, wanted=np.flatnonzero(counted[:, 0]))
    # One matching problem per threshold and area range; nonzero lists (T, A, pairs) problem by problem.
    t, a, pair = np.nonzero((iou >= THRESHOLDS[:, None, None]) & counted[box].T)
    problem = t * num_areas + a
    proposer, box_of_problem = problem * limit + rank[pair], problem * num_boxes + box[pair]
    winner = serve_in_order(proposer, box_of_problem, math.prod(shape)).reshape(shape)
    found = np.where(winner < 0, UNMATCHED, winner % limit)
    return found.transpose(2, 0, 1).astype(np.int32)


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


def pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) IoU of boxes (N, 4) and (M, 4), float64 xyxy, in the steps of pycocotools' `bbIou`.

    It works on (x, y, width, height) and gets the right edge back as x + width, which may miss x2 by the last
    bit.
    """
    ax, ay, aw, ah = _xywh(a[:, None])
    bx, by, bw, bh = _xywh(b[None])
    width = np.minimum(aw + ax, bw + bx) - np.maximum(ax, bx)
    height = np.minimum(ah + ay, bh + by) - np.maximum(ay, by)
    inside = (width > 0) & (height > 0)
    intersection = np.where(inside, width * height, 0.0)
    union = aw * ah + bw * bh - intersection
    return np.divide(intersection, union, out=intersection, where=inside)


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


def _pairs(boxes: np.ndarray, gt_boxes: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank, box and IoU of all pairs at IoU >= 0.5, a proposal's pairs together, its best choice first.

    A proposal prefers the box of highest IoU and, among equals, the later one: pycocotools replaces its
    candidate whenever the next is no worse. `wanted` are the rows of gt_boxes (G, 4) that take part.
    """
    iou = pairwise_iou(gt_boxes[wanted], boxes)
    box, rank = np.nonzero(iou >= THRESHOLDS[0])
    value = iou[box, rank]
    by_choice = np.lexsort((-box, -value, rank))
    return rank[by_choice], wanted[box[by_choice]], value[by_choice]


def _xywh(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
    return x1, y1, x2 - x1, y2 - y1


def _float64(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)
