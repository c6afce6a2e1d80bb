"""Importance of swept settings: the share of a metric's variance that each explains alone (functional ANOVA).

Hutter, Hoos and Leyton-Brown (2014): regression trees predict the metric from the settings. A tree cuts the space of
settings into boxes of one value each, so the variance of its predictions over the whole space, and the part of it that
one setting explains whatever the others are, follow exactly. The trees differ in the runs that they have seen, which
gives the uncertainty. It is a description of these runs, not a test, and knows no setting that was not varied.

R  runs    P  settings    L  leaves of a tree
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anchorlab.comparing.labels import shown

TREES = 100
FEWEST = 8
"""Runs below which no tree is grown."""


@dataclass(frozen=True)
class Importance:
    """Of one setting: its share of the variance, the median over the trees, and the middle 90 % of them."""

    key: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Importances:
    """The settings, most important first.

    fit: 1 less the mean squared error over the variance, of runs that a tree has not seen: at 0 or below the settings
        predict nothing, and the shares mean nothing.
    """

    settings: tuple[Importance, ...]
    runs: int
    fit: float


def importances(
    settings: Sequence[Mapping[str, Any]], scores: Sequence[float], keys: Sequence[str], seed: int = 0
) -> Importances | None:
    """Of `keys`, of which each run has the value in `settings`; None where runs or differences are too few.

    A number counts by its rank among the values that were tried, so that a scale may be logarithmic; other values by
    the mean score of their runs.
    """
    y = np.asarray(scores, dtype=np.float64)
    varied = [key for key in keys if len({shown(row.get(key)) for row in settings}) > 1]
    if len(y) < FEWEST or not varied or y.var() == 0:
        return None
    codes = np.stack([_codes([row.get(key) for row in settings], y) for key in varied], axis=1)
    levels = codes.max(axis=0) + 1
    shares, seen_not = [], [[] for _ in y]
    rng = np.random.default_rng(seed)
    for _ in range(TREES):
        rows = rng.integers(0, len(y), len(y))
        tree = _grown(codes[rows], y[rows], levels)
        shares.append(tree.shares(levels))
        for row in np.setdiff1d(np.arange(len(y)), rows):
            seen_not[row].append(tree.predict(codes[row]))
    low, middle, high = np.quantile(shares, [0.05, 0.5, 0.95], axis=0)
    judged = [row for row, guesses in enumerate(seen_not) if guesses]
    errors = [np.mean(seen_not[row]) - y[row] for row in judged]
    found = [Importance(*of_key) for of_key in zip(varied, middle, low, high, strict=True)]
    fit = 1 - float(np.mean(np.square(errors)) / y.var())
    return Importances(tuple(sorted(found, key=lambda one: -one.share)), len(y), fit)


@dataclass(frozen=True)
class _Tree:
    """Leaves: boxes of codes, `low` (L, P) up to but without `high` (L, P), and their `values` (L,)."""

    low: np.ndarray
    high: np.ndarray
    values: np.ndarray

    def predict(self, code: np.ndarray) -> float:
        return float(self.values[((code >= self.low) & (code < self.high)).all(axis=1)][0])

    def shares(self, levels: np.ndarray) -> np.ndarray:
        """(P,) variance of the mean prediction at each level of a setting, over that of all predictions; all levels of
        a setting count the same."""
        parts = (self.high - self.low) / levels  # (L, P)
        weights = parts.prod(axis=1)
        mean = weights @ self.values
        whole = weights @ (self.values - mean) ** 2
        if whole <= 0:
            return np.zeros(len(levels))
        shares = np.zeros(len(levels))
        for at, count in enumerate(levels):
            level = np.arange(count)
            holds = (level >= self.low[:, at, None]) & (level < self.high[:, at, None])  # (L, levels)
            marginal = (weights / parts[:, at] * self.values) @ holds
            shares[at] = ((marginal - mean) ** 2).mean() / whole
        return shares


def _codes(values: Sequence[Any], y: np.ndarray) -> np.ndarray:
    """(R,) place of each value among those that were tried."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    names = list(values) if numbers else [shown(value) for value in values]
    mean = {name: y[[other == name for other in names]].mean() for name in set(names)}
    order = sorted(mean) if numbers else sorted(mean, key=lambda name: mean[name])
    return np.array([order.index(name) for name in names])


def _grown(codes: np.ndarray, y: np.ndarray, levels: np.ndarray) -> _Tree:
    """A regression tree: each box is cut where that lowers the squared error most, down to a few runs."""
    fewest = max(2, len(y) // 20)
    waiting = [(np.arange(len(y)), np.zeros_like(levels), levels)]
    leaves: list[tuple[np.ndarray, np.ndarray, float]] = []
    while waiting:
        rows, low, high = waiting.pop()
        cut = _best_cut(codes[rows], y[rows], fewest)
        if cut is None:
            leaves.append((low, high, float(y[rows].mean())))
            continue
        at, place = cut
        left, right = high.copy(), low.copy()
        left[at] = right[at] = place
        below = codes[rows, at] < place
        waiting += [(rows[below], low, left), (rows[~below], right, high)]
    return _Tree(*(np.array(column) for column in zip(*leaves, strict=True)))


def _best_cut(codes: np.ndarray, y: np.ndarray, fewest: int) -> tuple[int, int] | None:
    """The setting, and the first code of the right side; None where no cut helps."""
    best, found = 1e-12 * len(y), None
    centred = y - y.mean()
    for at in range(codes.shape[1]):
        order = np.argsort(codes[:, at], kind="stable")
        sorted_codes, sums = codes[order, at], centred[order].cumsum()[:-1]
        left = np.arange(1, len(y))
        gain = sums**2 / left + sums**2 / (len(y) - left)  # the sum of `centred` is 0
        usable = (np.diff(sorted_codes) > 0) & (left >= fewest) & (len(y) - left >= fewest)
        if usable.any() and (most := gain[usable].max()) > best:
            place = np.flatnonzero(usable)[gain[usable].argmax()]
            best, found = most, (at, int(sorted_codes[place + 1]))
    return found
