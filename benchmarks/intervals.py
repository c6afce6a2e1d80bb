"""Benchmark of compare.py's intervals: coverage and false alarms over thousands of simulated runs with a known
difference.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from anchorlab.comparing.statistics import Bootstrap, Group, all_pairs, holm
from benchmarks.measure import Options, Row, parse, report, set_threads

CLAIM = (
    "95 % intervals cover the true difference in 93 to 97 % of simulations; equal runs are told apart in at most 6 %"
)
THRESHOLDS = 10
PLANTED = 0.15  # in logits


@dataclass(frozen=True)
class World:
    """How many boxes a run finds: the logit of a box's chance is a sum of independent normal terms.

    Args:
        images: of the split, with 1 + Poisson(6) boxes each.
        seeds: of each side.
        between_seeds: sd of a training run as a whole; what its seed does to everything.
        by_image: sd of what a setting does to one image.
        by_seed_and_image: sd of what a training run does to one image.
    """

    name: str
    images: int
    seeds: int
    between_seeds: float = 0.0
    by_image: float = 0.3
    by_seed_and_image: float = 0.3
    difficulty: float = 1.0

    def truth(self, shift: float) -> float:
        """The difference of the two settings over all images and seeds there could be."""
        spread = np.sqrt(self.difficulty**2 + self.between_seeds**2 + self.by_image**2 + self.by_seed_and_image**2)
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        weights = weights / weights.sum()
        return float(weights @ (expit(0.5 + shift + spread * nodes) - expit(0.5 + spread * nodes)))

    def draw(self, rng: np.random.Generator, shifts: tuple[float, ...]) -> tuple[list[Group], np.ndarray]:
        """One data set and, for each shift, the runs of one setting; and the boxes wanted of every image."""
        boxes = 1 + rng.poisson(6, self.images)
        difficulty = rng.normal(0.5, self.difficulty, self.images)
        groups = []
        for shift in shifts:
            logit = difficulty + shift + rng.normal(0, self.by_image, self.images)
            logit = logit + rng.normal(0, self.between_seeds, (self.seeds, 1))
            logit = logit + rng.normal(0, self.by_seed_and_image, (self.seeds, self.images))
            groups.append(Group(tuple(range(self.seeds)), rng.binomial(boxes * THRESHOLDS, expit(logit)).astype(float)))
        return groups, boxes * float(THRESHOLDS)


WORLDS = (
    World("one run a side", 100, 1),
    World("one run a side, 500 images", 500, 1),
    World("2 seeds", 100, 2, between_seeds=0.1),
    World("3 seeds", 100, 3, between_seeds=0.1),
    World("3 seeds, noisy training", 100, 3, between_seeds=0.3),
    World("5 seeds", 100, 5, between_seeds=0.1),
    World("3 seeds that differ image by image alone", 100, 3, by_image=0.0, by_seed_and_image=0.5),
)


def simulate(world: World, repeats: int, resamples: int, shift: float) -> tuple[float, float]:
    """Shares of simulations whose interval covers the truth, and whose p is below 0.05."""
    covered = found = 0
    truth = world.truth(shift)
    for repeat in range(repeats):
        groups, wanted = world.draw(np.random.default_rng((repeat, int(1000 * shift))), (0.0, shift))
        difference = Bootstrap(resamples, seed=repeat).against(0, groups, wanted)[1]
        assert difference is not None
        covered += difference.low <= truth <= difference.high
        found += difference.p < 0.05
    return covered / repeats, found / repeats


def family_wise(world: World, repeats: int, resamples: int, settings: int, leader: bool) -> float:
    """Share of simulations of equal settings in which any is told from the first, or from the leader found by
    looking."""
    alarms = 0
    for repeat in range(repeats):
        groups, wanted = world.draw(np.random.default_rng((repeat, settings)), (0.0,) * settings)
        best = int(np.argmax([group.found.sum(axis=1).mean() for group in groups])) if leader else 0
        differences = Bootstrap(resamples, seed=repeat).against(best, groups, wanted)
        p = [difference.p for difference in differences if difference is not None]
        alarms += bool((holm(p, all_pairs(settings) if leader else None) < 0.05).any())
    return alarms / repeats


def main(options: Options) -> None:
    set_threads(options.threads or 1)
    repeats, resamples = (5, 200) if options.quick else (options.repeats or 4000, 2000)
    rows: list[Row] = []
    for world in WORLDS:
        covered, power = simulate(world, repeats, resamples, PLANTED)
        without, alarms = simulate(world, repeats, resamples, 0.0)
        sizes = {"simulation": world.name, "images": world.images, "seeds": world.seeds}
        shares = {"covers the planted": covered, "covers none": without, "false alarms": alarms, "finds it": power}
        rows.append(sizes | {"planted": world.truth(PLANTED)} | shares)
    for leader, name in ((False, "8 equal runs against the first"), (True, "8 equal runs against their leader")):
        alarms = family_wise(WORLDS[0], max(repeats // 4, 5), resamples, 8, leader)
        none = float("nan")
        sizes = {"simulation": name, "images": WORLDS[0].images, "seeds": 1, "planted": 0.0}
        rows.append(sizes | {"covers the planted": none, "covers none": none, "false alarms": alarms, "finds it": none})
    setting = {"layout": "simulated", "precision": "float64", "repeats": repeats, "resamples": resamples}
    notes = [
        "The last of the settings is the hard one: three seeds cannot show that seeds make no difference of their own, "
        "so its intervals are wider than need be.",
    ]
    report("intervals", CLAIM, rows, setting, options, notes)


if __name__ == "__main__":
    main(parse(__doc__))
