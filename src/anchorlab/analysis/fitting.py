"""Anchor fitting: finds the k shapes per level that give the most boxes an anchor with IoU >= `foreground_iou`.

k-means on shapes alone minimises another quantity, and on no grid. Here each candidate is placed on the grid of its
level, as training will place it: the best IoU of every box with it is closed form (closed_form.py), so that a change
of one shape costs one row of numbers. Greedy maximum coverage over many candidates, and k-means, start a local search
over widths and heights that never accepts a worse set.

G: boxes, L: levels, k: shapes per level, S = L k: shapes of all levels, P: candidates.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Len
from torch import Tensor

from anchorlab.analysis.baselines import iou_kmeans, split_by_area
from anchorlab.analysis.closed_form import LevelShape, PlacedBoxes
from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner
from anchorlab.signatures import Count, Positive, Seed, Share, checked

# A box counts once it has an anchor of foreground_iou, half as much once it has one halfway up from background_iou (a
# box below is trained on its low-quality match alone); the mean best IoU leads to both where neither is near.
HALFWAY_WEIGHT, MEAN_WEIGHT = 0.5, 0.2

# Few boxes are joined by copies of them, moved by up to the coarsest stride, their sides changed by a factor of about
# exp(COPY_SPREAD / G^(1/4)): without them the shapes fit these boxes in these places, and others hardly at all.
COPY_SPREAD = 0.5

# The candidates of a level: so many steps an octave of size, and these ratios on either side of 1.
STEPS_PER_OCTAVE = 4
RATIO_STEP, RATIO_STEPS = 2**0.4, 6

# Spread of the local search, in natural logarithms of sides, and trials of each shape in one round.
SPREADS = (0.3, 0.15, 0.08, 0.04, 0.02)
TRIALS = 16
ROUNDS = 6
LEAST_GAIN = 1e-4  # of a round, for another one with the same spread

DEFAULTS = {
    name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
    for name, parameter in inspect.signature(AnchorGrid).parameters.items()
    if parameter.default is not parameter.empty
}
"""Of `AnchorGrid`'s own arguments, as a config holds them."""


@dataclass(frozen=True)
class Fitted:
    """What a fit found.

    settings: keys of the `anchor` group that hold it: `shapes`, or `sizes` and `ratios`, and k and offset.
    objective: what was maximised, on the boxes it was fitted to.
    """

    settings: dict[str, Any]
    objective: float

    @property
    def group(self) -> dict[str, Any]:
        """The `anchor` group as `AnchorGrid` takes it, every key given."""
        return {"_target_": "anchorlab.rpn.AnchorGrid"} | DEFAULTS | self.settings

    def grid(self, strides: Sequence[int]) -> AnchorGrid:
        """The anchors themselves."""
        return AnchorGrid(**self.settings, strides=strides)


ALWAYS_FITTED = 16
"""Anchors per location that any number of boxes gives: moved and stretched copies join few."""


@checked
class AnchorFit:
    """Fits anchors to boxes; the choice `anchor=fit` of a training, which then runs with what was found.

    Args:
        k: anchors per location, the same on every level.
        form: "free": k widths and heights per level; "grid": sizes per level times ratios that all levels share.
        size_range: sizes that a level may have, in strides. The finest level may go below, the coarsest beyond: a
            level never gets what only another one's features can see.
        offset: of the anchors' centres, as in `AnchorGrid`.
        boxes: so many are fitted to, drawn by `seed`; where there are fewer, copies are added, slightly changed.
        strides: pixels per cell of each level, from the backbone.

    The same boxes give the same anchors, on every process. Raises ValueError, naming the setting, for what makes no
    anchors.
    """

    def __init__(
        self,
        k: Count = 3,
        form: Literal["free", "grid"] = "free",
        size_range: Annotated[Sequence[Positive], Len(2, 2)] = (2.0, 16.0),
        offset: Share = 0.0,
        boxes: Count = 5_000,
        seed: Seed = 0,
        *,
        strides: Sequence[int],
    ) -> None:
        if size_range[0] >= size_range[1]:
            raise ValueError(f"size_range={list(size_range)}: give the smallest and the largest size, in strides.")
        self.k, self.form, self.offset, self.seed = k, form, offset, seed
        self.size_range = tuple(size_range)
        self.boxes = boxes
        self.strides = tuple(strides)

    def __call__(self, truth: GroundTruth, assigner: MaxIoUAssigner) -> Fitted:
        """The best anchors found for the boxes of `truth`, at the assigner's foreground_iou.

        Raises ValueError where there is no box to fit to.
        """
        if len(truth) == 0:
            raise ValueError("anchor=fit finds no boxes in the training split: give anchor.sizes or anchor.shapes.")
        if self.k > max(len(truth), ALWAYS_FITTED):
            raise ValueError(f"anchor.k={self.k} anchors cannot be fitted to {len(truth)} boxes: give at most as many.")
        rng = np.random.default_rng(self.seed)
        truth = _as_many(truth, self.boxes, max(self.strides), rng)
        problem = _Problem(truth, assigner, self.strides, self.offset, self.size_range)
        found = _free(problem, self.k, rng) if self.form == "free" else _grid(problem, self.k, rng)
        return Fitted(found.settings | {"k": self.k, "offset": self.offset}, found.objective)


class _Problem:
    """The boxes, and what a set of shapes is worth."""

    def __init__(
        self,
        truth: GroundTruth,
        assigner: MaxIoUAssigner,
        strides: Sequence[int],
        offset: float,
        size_range: Sequence[float],
    ) -> None:
        self.truth, self.strides, self.offset = truth, strides, offset
        self.threshold = assigner.foreground_iou
        self.halfway = (assigner.foreground_iou + assigner.background_iou) / 2
        self.placed = PlacedBoxes(truth, assigner.border)
        largest = float(truth.padded.max())
        self.limits = [[low * stride for low in size_range] for stride in strides]
        self.limits[0][0] = min(4.0, self.limits[0][0])
        self.limits[-1][1] = max(2 * largest, self.limits[-1][1])

    def iou(self, level: int, shapes: np.ndarray) -> Tensor:
        """The best IoU (P, G) of each box with each of some shapes (P, 2), width and height, on a level."""
        found = torch.empty(len(shapes), len(self.truth))
        for row, (width, height) in zip(found, shapes.astype(np.float32).tolist(), strict=True):
            self.placed.estimate(LevelShape(level, self.strides[level], self.offset, (width, height)), row)
        return found

    def worth(self, best: Tensor) -> Tensor:
        """What best IoUs (..., G) are worth."""
        halfway = HALFWAY_WEIGHT * (best >= self.halfway).float().mean(-1)
        return (best >= self.threshold).float().mean(-1) + halfway + MEAN_WEIGHT * best.mean(-1)

    def legal(self, level: int, shapes: np.ndarray) -> np.ndarray:
        """The shapes (P, 2), those beyond the level's sizes brought back to them, the ratio kept."""
        size = np.sqrt(shapes.prod(-1, keepdims=True))
        return shapes * (size.clip(*self.limits[level]) / size)


def _as_many(truth: GroundTruth, count: int, reach: float, rng: np.random.Generator) -> GroundTruth:
    """`count` of the boxes, or all of them and changed copies, which stay inside their images."""
    if len(truth) >= count:
        chosen = rng.choice(len(truth), count, replace=False)
        return truth.part(torch.from_numpy(np.sort(chosen)))
    source = np.concatenate((np.arange(len(truth)), rng.integers(len(truth), size=count - len(truth))))
    found = truth.part(torch.from_numpy(source))
    copied = source[len(truth) :]
    boxes, limit = found.boxes.numpy()[len(truth) :], truth.sizes.numpy()[truth.image.numpy()[copied]][:, ::-1]
    sides = boxes[:, 2:] - boxes[:, :2]
    spread = COPY_SPREAD / len(truth) ** 0.25
    changed = np.minimum(sides * np.exp(spread * rng.standard_normal(sides.shape)), limit)
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2 + reach * rng.uniform(-1, 1, sides.shape)
    corner = np.clip(centre - changed / 2, 0, limit - changed)
    copies = torch.from_numpy(np.concatenate((corner, corner + changed), axis=1).astype(np.float32))
    return replace(found, boxes=torch.cat((truth.boxes, copies)))


def _free(problem: _Problem, k: int, rng: np.random.Generator) -> Fitted:
    """k widths and heights per level: the better of two starts, each improved."""
    sides = (problem.truth.boxes[:, 2:] - problem.truth.boxes[:, :2]).numpy().astype(np.float64)
    num_levels = len(problem.strides)
    means = split_by_area(iou_kmeans(sides, k * num_levels, rng), num_levels)
    starts = [_greedy(problem, k), [problem.legal(level, shapes) for level, shapes in enumerate(means)]]
    return max((_improved_shapes(problem, start, rng) for start in starts), key=lambda found: found.objective)


def _greedy(problem: _Problem, k: int) -> list[np.ndarray]:
    """Of all candidates, again and again the one that adds most to what is covered, until each level has k."""
    candidates = [_candidates(*limits) for limits in problem.limits]
    iou = torch.cat([problem.iou(level, shapes) for level, shapes in enumerate(candidates)])  # (P, G)
    level_of = np.repeat(np.arange(len(candidates)), [len(shapes) for shapes in candidates])
    every = np.concatenate(candidates)
    chosen: list[list[np.ndarray]] = [[] for _ in candidates]
    best, open_ = torch.zeros(iou.shape[1]), np.ones(len(every), dtype=bool)
    while open_.any():
        worth = problem.worth(torch.maximum(best, iou)).numpy()
        at = int(np.where(open_, worth, -np.inf).argmax())
        level = level_of[at]
        chosen[level].append(every[at])
        best = torch.maximum(best, iou[at])
        open_[at] = False
        if len(chosen[level]) == k:
            open_[level_of == level] = False
    return [np.array(shapes) for shapes in chosen]


def _candidates(smallest: float, largest: float) -> np.ndarray:
    """Width and height (P, 2) of a level's sizes in evenly spaced ratios."""
    count = max(2, 1 + round(STEPS_PER_OCTAVE * np.log2(largest / smallest)))
    size = np.geomspace(smallest, largest, count)[:, None]
    root = np.sqrt(RATIO_STEP ** np.arange(-RATIO_STEPS, RATIO_STEPS + 1))
    return np.stack((size / root, size * root), axis=-1).reshape(-1, 2)


def _improved_shapes(problem: _Problem, start: list[np.ndarray], rng: np.random.Generator) -> Fitted:
    """Local search: one shape at a time is replaced by the best of a few near it, if that is worth more."""
    level_of = np.repeat(np.arange(len(start)), [len(shapes) for shapes in start])
    shapes = np.concatenate(start)
    iou = torch.cat([problem.iou(level, part) for level, part in enumerate(start)])  # (S, G)

    def improve(i: int, spread: float, worth: float) -> float:
        others = torch.cat((iou[:i], iou[i + 1 :])).amax(dim=0) if len(iou) > 1 else torch.zeros(iou.shape[1])
        trials = problem.legal(level_of[i], shapes[i] * np.exp(spread * rng.standard_normal((TRIALS, 2))))
        found = problem.iou(level_of[i], trials)
        values = problem.worth(torch.maximum(others, found))
        at = int(values.argmax())
        if values[at] <= worth:
            return worth
        shapes[i], iou[i] = trials[at], found[at]
        return float(values[at])

    _search(improve, len(shapes), float(problem.worth(iou.amax(dim=0))))
    rounded = [_rounded_shapes(shapes[level_of == level]) for level in range(len(start))]
    final = torch.cat([problem.iou(level, np.array(part)) for level, part in enumerate(rounded)]).amax(dim=0)
    settings = {"shapes": rounded}
    return Fitted(settings, float(problem.worth(final)))


def _search(improve: Callable[[int, float, float], float], count: int, worth: float) -> None:
    """Try to improve each of `count` things in turn, in ever smaller steps, while it helps."""
    for spread in SPREADS:
        for _ in range(ROUNDS):
            before = worth
            for i in range(count):
                worth = improve(i, spread, worth)
            if worth - before < LEAST_GAIN:
                break


def _rounded_shapes(shapes: np.ndarray) -> list[list[float]]:
    """A level's shapes by area, in tenths of pixels: what a person copies."""
    return [[round(float(side), 1) for side in shape] for shape in shapes[shapes.prod(axis=1).argsort(kind="stable")]]


def _grid(problem: _Problem, k: int, rng: np.random.Generator) -> Fitted:
    """Sizes times ratios: the best way to divide k between the two."""
    divisions = [(count, k // count) for count in range(1, k + 1) if k % count == 0]
    return max((_GridSearch(problem, *division, rng).run() for division in divisions), key=lambda f: f.objective)


class _GridSearch:
    """Local search over n sizes of each level and m ratios that all levels share."""

    def __init__(self, problem: _Problem, num_sizes: int, num_ratios: int, rng: np.random.Generator) -> None:
        self.problem, self.rng = problem, rng
        self.ratios = np.quantile(problem.truth.ratio.numpy(), (np.arange(num_ratios) + 0.5) / num_ratios)
        strides = np.array(problem.strides, dtype=np.float64)[:, None]
        octave = 2 ** (np.arange(num_sizes) / num_sizes)
        starts = [self._legal(scale * strides * octave) for scale in (3, 4, 6, 8)]
        self.sizes = max(starts, key=lambda sizes: self._worth(sizes, self.ratios))  # (L, n)

    def run(self) -> Fitted:
        self.iou = self._iou(self.sizes, self.ratios)  # (L, n, m, G)
        _search(self._improve, self.sizes.size + len(self.ratios), float(self.problem.worth(self.iou.amax((0, 1, 2)))))
        sizes, ratios = self.sizes.round(1), self.ratios.round(2)
        return Fitted(
            {"sizes": _flat(np.sort(sizes, axis=1).tolist()), "ratios": sorted(ratios.tolist())},
            self._worth(sizes, ratios),
        )

    def _improve(self, i: int, spread: float, worth: float) -> float:
        best: tuple[float, Any] = worth, None
        for factor in np.exp(spread * self.rng.standard_normal(TRIALS // 2)):
            sizes, ratios = self._changed(i, factor)
            iou = self.iou.clone()
            if i < sizes.size:
                level, at = divmod(i, sizes.shape[1])
                iou[level, at] = self._iou(sizes[level : level + 1, at : at + 1], ratios, level)[0, 0]
            else:
                at = i - sizes.size
                iou[:, :, at] = self._iou(sizes, ratios[at : at + 1])[:, :, 0]
            value = float(self.problem.worth(iou.amax((0, 1, 2))))
            if value > best[0]:
                best = value, (sizes, ratios, iou)
        if best[1] is not None:
            self.sizes, self.ratios, self.iou = best[1]
        return best[0]

    def _changed(self, i: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
        """Sizes and ratios with the i-th number, counted over both, multiplied."""
        sizes, ratios = self.sizes.copy(), self.ratios.copy()
        if i < sizes.size:
            sizes.flat[i] *= factor
        else:
            ratios[i - sizes.size] *= factor
        return self._legal(sizes), ratios

    def _legal(self, sizes: np.ndarray) -> np.ndarray:
        low, high = np.array(self.problem.limits).T[:, :, None]
        return sizes.clip(low, high)

    def _iou(self, sizes: np.ndarray, ratios: np.ndarray, first_level: int = 0) -> Tensor:
        """(L, n, m, G) of sizes (L, n), of the levels from `first_level` on, in each ratio."""
        root = np.sqrt(ratios)
        shapes = np.stack((sizes[:, :, None] / root, sizes[:, :, None] * root), axis=-1)  # (L, n, m, 2)
        rows = [self.problem.iou(first_level + i, part.reshape(-1, 2)) for i, part in enumerate(shapes)]
        return torch.stack(rows).reshape(*shapes.shape[:3], -1)

    def _worth(self, sizes: np.ndarray, ratios: np.ndarray) -> float:
        return float(self.problem.worth(self._iou(sizes, ratios).amax((0, 1, 2))))


def _flat(sizes: list[list[float]]) -> list[Any]:
    """Sizes per level as one writes them: flat on one level, and where each level has one."""
    if len(sizes) == 1:
        return sizes[0]
    return [level[0] for level in sizes] if all(len(level) == 1 for level in sizes) else sizes
