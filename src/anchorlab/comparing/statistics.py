"""Statistics of a comparison: intervals and tests by resampling images, and seeds where there are several.

The results hold for this data set only. With one seed a side they compare two networks, not two settings.

I  images with boxes to find     S  seeds of a group (its runs differ in nothing else)
B  resamples                     R  runs of all groups together
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

FEW = 20
"""With fewer resamples than this on the far side of zero, p comes from Student's t: a share of so few is noise."""


@dataclass(frozen=True)
class Group:
    """The runs of one setting, scored on the same images.

    seeds  (S,)             their seeds, each once
    found  (S, I) float64   boxes found, from `Metric.per_image`
    """

    seeds: tuple[int | None, ...]
    found: np.ndarray


@dataclass(frozen=True)
class PairedT:
    """Student's t over the seeds that both sides have: mean difference, interval, two-sided p."""

    seeds: int
    estimate: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Difference:
    """A group's metric less the baseline's.

    estimate   on the images as they are, mean over seeds
    low, high  the interval for images and seeds like these; NaN where there is one image
    better     share of the resamples in which the group is ahead, ties half
    p          two-sided, for this comparison alone (see `holm`)
    paired     beside it, where both sides have two seeds or more in common
    """

    estimate: float
    low: float
    high: float
    better: float
    p: float
    paired: PairedT | None


@dataclass(frozen=True)
class Bootstrap:
    """Paired bootstrap over images: every group is scored on the same resampled images.

    Where a group has several seeds, they are resampled too. Seeds are few, so three things are set right that plain
    resampling gets wrong: the spread of S draws from S values is too small by sqrt((S - 1) / S); part of the spread
    between seeds comes from the images, is already in their resampling, and is taken off by the moments of the
    two-way layout (Owen 2007 shows that it would be counted up to three times); and the resamples are spread by
    Student's t over the normal quantile (Hesterberg 2015), at the degrees of freedom of Satterthwaite (1946).

    Args:
        resamples: B.
        confidence: of the intervals.
        seed: of the resampling.
    """

    resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 0

    def against(self, baseline: int, groups: Sequence[Group], wanted: np.ndarray) -> list[Difference | None]:
        """Every group against the one at `baseline`; None for that one.

        Args:
            wanted: (I,) boxes to find of every image, from `Metric.per_image`; its zeros are left out.
        """
        useful = wanted > 0
        groups = [Group(group.seeds, group.found[:, useful]) for group in groups]
        wanted = wanted[useful]
        resampled = self._resampled_metrics(np.concatenate([group.found for group in groups]), wanted)
        columns = np.split(np.arange(resampled.shape[1]), np.cumsum([len(group.found) for group in groups])[:-1])
        rng = np.random.default_rng((self.seed, 1))
        sides = [_side(group, wanted, resampled[:, column], rng) for group, column in zip(groups, columns, strict=True)]
        return [
            None
            if at == baseline
            else self._difference(side, sides[baseline], len(wanted), self._paired(groups, sides, at, baseline))
            for at, side in enumerate(sides)
        ]

    def _resampled_metrics(self, found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """(B, R) metrics of all runs on the same resampled images."""
        rows = [weights @ found.T / (weights @ wanted)[:, None] for weights in self._weights(len(wanted))]
        return np.concatenate(rows)

    def _weights(self, images: int) -> Iterator[np.ndarray]:
        """How often each image is drawn, (some of B, I) at a time: multinomial, by counting draws."""
        rng, at_once = np.random.default_rng((self.seed, 0)), max(1, 4_000_000 // max(images, 1))
        for start in range(0, self.resamples, at_once):
            rows = min(at_once, self.resamples - start)
            drawn = rng.integers(0, images, (rows, images)) + np.arange(rows)[:, None] * images
            yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)

    def _difference(self, one: "_Side", other: "_Side", images: int, paired: PairedT | None) -> Difference:
        estimate = one.estimate - other.estimate
        if images < 2:
            return Difference(estimate, np.nan, np.nan, 0.5, 1.0, paired)
        by_images = (one.by_images - other.by_images - estimate) * np.sqrt(images / (images - 1))
        parts = [(by_images.var(), images - 1), *((side.seed_variance, side.seed_df) for side in (one, other))]
        variance = max(sum(part for part, _ in parts) - one.image_share - other.image_share, 0.0)
        uncertain = sum(part**2 / df for part, df in parts if part > 0)
        df = np.clip(variance**2 / uncertain, 1, images - 1) if uncertain > 0 else images - 1
        tail = (1 - self.confidence) / 2
        spread = stdtrit(df, 1 - tail) / ndtri(1 - tail)
        resamples = estimate + spread * (by_images + one.by_seeds - other.by_seeds)
        low, high = np.quantile(resamples, [tail, 1 - tail])
        better = float((resamples > 0).mean() + (resamples == 0).mean() / 2)
        p = self._two_sided(better, estimate, np.sqrt(variance), df)
        # The strongest evidence of images is that all agree: no p is below the sign test's smallest.
        return Difference(estimate, float(low), float(high), better, max(p, 2.0 ** (1 - images)), paired)

    def _two_sided(self, better: float, estimate: float, error: float, df: float) -> float:
        """p from the share of resamples beyond zero, or from Student's t where these are too few to count."""
        p = 2 * min(better, 1 - better)
        fewest = 2 * FEW / self.resamples
        if p >= fewest or estimate == 0:
            return min(p, 1.0)
        return min(fewest, 2 * float(stdtr(df, -abs(estimate) / error))) if error > 0 else 0.0

    def _paired(self, groups: Sequence[Group], sides: Sequence["_Side"], at: int, baseline: int) -> PairedT | None:
        of_seeds = [dict(zip(groups[i].seeds, sides[i].per_seed.tolist(), strict=True)) for i in (at, baseline)]
        shared = [seed for seed in of_seeds[0] if seed in of_seeds[1]]
        if len(shared) < 2:
            return None
        return paired_t(*(np.array([side[seed] for seed in shared]) for side in of_seeds), confidence=self.confidence)


@dataclass(frozen=True)
class _Side:
    """One group, resampled.

    per_seed       (S,) of every seed on all images, and their mean `estimate`
    by_images      (B,) mean over the seeds on resampled images
    by_seeds       (B,) what resampling the seeds adds, around 0
    seed_variance  of the mean over seeds, as the spread between them shows it, with seed_df degrees of freedom
    image_share    the part of it that comes from the images
    """

    per_seed: np.ndarray
    estimate: float
    by_images: np.ndarray
    by_seeds: np.ndarray
    seed_variance: float
    seed_df: int
    image_share: float


def _side(group: Group, wanted: np.ndarray, resampled: np.ndarray, rng: np.random.Generator) -> _Side:
    per_seed = group.found.sum(axis=1) / wanted.sum()
    by_images, seeds = resampled.mean(axis=1), len(per_seed)
    if seeds == 1:
        return _Side(per_seed, float(per_seed[0]), by_images, np.zeros_like(by_images), 0.0, 1, 0.0)
    variance = per_seed.var(ddof=1)
    from_images = min((resampled - by_images[:, None]).var(axis=0).sum() / (seeds - 1), variance)
    drawn = per_seed[rng.integers(0, seeds, resampled.shape)].mean(axis=1) - per_seed.mean()
    of_its_own = 1 - from_images / variance if variance > 0 else 0.0
    by_seeds = drawn * np.sqrt(seeds / (seeds - 1) * of_its_own)
    return _Side(
        per_seed, float(per_seed.mean()), by_images, by_seeds, variance / seeds, seeds - 1, from_images / seeds
    )


def paired_t(one: np.ndarray, other: np.ndarray, confidence: float = 0.95) -> PairedT:
    """Student's t of the differences one - other, (S,) each, S >= 2, seed by seed."""
    differences = np.asarray(one) - np.asarray(other)
    count, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1) / np.sqrt(count))
    if error == 0:
        return PairedT(count, mean, mean, mean, 1.0 if mean == 0 else 0.0)
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * error
    return PairedT(count, mean, mean - half, mean + half, 2 * float(stdtr(count - 1, -abs(mean) / error)))


def holm(p: Sequence[float], family: int | None = None) -> np.ndarray:
    """Adjusted p of many comparisons (Holm 1979): below alpha with at most alpha's chance of any false one.

    Args:
        p: of the comparisons that are looked at.
        family: how many they were picked from, at least len(p); None: these are all.
    """
    values = np.asarray(p, dtype=np.float64)
    family = len(values) if family is None else family
    assert family >= len(values)
    order = np.argsort(values, kind="stable")
    steps = values[order] * (family - np.arange(len(values)))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def all_pairs(groups: int) -> int:
    """Holm's family where the baseline is the best of `groups`: it was chosen by its score, so all pairs count."""
    return groups * (groups - 1) // 2
