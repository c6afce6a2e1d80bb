"""Differences against known answers: a planted one is covered, none is not found, ties and single images stay open."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from anchorlab.comparing.statistics import Bootstrap, Difference, Group, all_pairs, holm, paired_t
from benchmarks.intervals import PLANTED, World, family_wise, simulate

SMALL = Bootstrap(resamples=500)


def difference(one, other, wanted, bootstrap: Bootstrap = SMALL) -> Difference:
    """Of found boxes (S, I) or (I,) against others."""
    groups = [Group(tuple(range(len(rows))), rows) for rows in map(np.atleast_2d, (other, one))]
    found = bootstrap.against(0, [Group(g.seeds, g.found.astype(float)) for g in groups], np.asarray(wanted, float))
    assert found[0] is None
    assert found[1] is not None
    return found[1]


# ------------------------------------------------------------------------------------------------ simulations
# Small here; `python -m benchmarks intervals` simulates thousands. Bounds: 93-97 % and 6 %, widened by the three
# standard errors that so few simulations leave.


in_worlds = pytest.mark.parametrize(
    "world",
    [World("one run a side", 100, 1), World("3 seeds", 120, 3, between_seeds=0.15)],
    ids=lambda world: world.name,
)


@in_worlds
def test_intervals_cover_a_planted_difference(world):
    repeats = 500
    covered, _ = simulate(world, repeats, resamples=400, shift=PLANTED)
    error = 3 * np.sqrt(0.05 * 0.95 / repeats)
    assert 0.93 - error < covered < 0.97 + error


@in_worlds
def test_equal_settings_are_rarely_told_apart(world):
    repeats = 500
    covered, alarms = simulate(world, repeats, resamples=400, shift=0.0)
    assert alarms < 0.06 + 3 * np.sqrt(0.05 * 0.95 / repeats)
    assert covered > 0.93 - 3 * np.sqrt(0.05 * 0.95 / repeats)


@pytest.mark.parametrize("leader", [False, True])
def test_no_false_alarm_in_a_family_even_against_a_leader_found_by_looking(leader):
    world = World("one run a side", 100, 1)
    assert family_wise(world, repeats=300, resamples=300, settings=6, leader=leader) < 0.06 + 3 * np.sqrt(0.0475 / 300)


def test_plain_resampling_of_three_seeds_would_be_too_narrow():
    """What the corrections are for: the spread of three seeds, drawn from themselves, covers far too rarely."""
    rng = np.random.default_rng(0)
    covered = plain = 0
    for _ in range(300):
        figures = rng.normal(0, 1, 3)
        drawn = figures[rng.integers(0, 3, (400, 3))].mean(axis=1)
        plain += bool(np.quantile(drawn, 0.025) <= 0 <= np.quantile(drawn, 0.975))
        found = 500 + 50 * figures[:, None] * np.ones((3, 100))  # no noise but that of the seeds
        result = difference(found, np.full((3, 100), 500.0), np.full(100, 1000.0))
        covered += result.low <= 0 <= result.high
    assert plain / 300 < 0.85
    assert covered / 300 > 0.92


# ----------------------------------------------------------------------------------------------- known answers


def test_standard_error_is_that_of_the_paired_differences():
    """With equal numbers of boxes the figure is a mean, whose interval is Student's."""
    rng = np.random.default_rng(1)
    other = rng.integers(0, 50, 200).astype(float)
    one = other + rng.integers(-5, 8, 200)
    result = difference(one, other, np.full(200, 100.0), Bootstrap(resamples=20_000))
    expected = stats.ttest_rel(one / 100, other / 100)
    low, high = expected.confidence_interval(0.95)
    assert result.estimate == pytest.approx((one - other).mean() / 100)
    assert result.low == pytest.approx(low, abs=0.02 * (high - low))
    assert result.high == pytest.approx(high, abs=0.02 * (high - low))


def test_ties_stay_open():
    found = np.arange(50.0)
    same = difference(found, found, np.full(50, 100.0))
    assert (same.estimate, same.low, same.high, same.better, same.p) == (0, 0, 0, 0.5, 1)
    swapped = difference(np.tile([1.0, 3.0], 50), np.tile([3.0, 1.0], 50), np.full(100, 10.0))
    assert swapped.estimate == 0
    assert swapped.p > 0.5
    assert swapped.low < 0 < swapped.high


def test_one_image_says_nothing_however_large_the_difference():
    result = difference([9.0], [0.0], [10.0])
    assert result.estimate == 0.9
    assert (result.better, result.p) == (0.5, 1.0)
    assert np.isnan(result.low)
    assert np.isnan(result.high)


@pytest.mark.parametrize(("images", "told"), [(2, False), (5, False), (6, True)])
def test_few_images_that_all_agree_say_no_more_than_a_sign_test(images, told):
    result = difference(np.full(images, 9.0), np.zeros(images), np.full(images, 10.0))
    assert result.p == pytest.approx(2 ** (1 - images))
    assert (result.p < 0.05) == told


def test_images_without_boxes_change_nothing():
    rng = np.random.default_rng(2)
    found, wanted = rng.integers(0, 10, (2, 40)).astype(float), np.full(40, 10.0)
    padded = np.concatenate([found, np.zeros((2, 25))], axis=1)
    assert difference(padded[0], padded[1], [*wanted, *np.zeros(25)]) == difference(found[0], found[1], wanted)


def test_a_clear_difference_is_found_and_its_p_goes_below_what_resamples_resolve():
    rng = np.random.default_rng(3)
    other = rng.integers(0, 40, 300).astype(float)
    result = difference(other + rng.integers(5, 15, 300), other, np.full(300, 60.0))
    assert result.better == 1.0
    assert 0 < result.p < 1e-9


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(4)
    other = rng.integers(20, 40, (3, 200)).astype(float)
    steady = other + 2
    torn = other + np.array([-10.0, 2.0, 14.0])[:, None]
    wanted = np.full(200, 60.0)
    narrow, wide = difference(steady, other, wanted), difference(torn, other, wanted)
    assert wide.estimate == pytest.approx(narrow.estimate)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert wide.p > 0.05 > narrow.p


def test_the_same_question_has_the_same_answer():
    rng = np.random.default_rng(5)
    found, wanted = rng.integers(0, 10, (2, 3, 60)), np.full(60, 10.0)
    assert difference(found[0], found[1], wanted) == difference(found[0], found[1], wanted)
    assert difference(found[0], found[1], wanted) != difference(found[0], found[1], wanted, Bootstrap(500, seed=1))


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=30)
def test_sides_are_treated_alike(seed, one_seeds, other_seeds):
    rng = np.random.default_rng(seed)
    wanted = rng.integers(1, 20, 40).astype(float)
    one, other = (np.floor(rng.random((seeds, 40)) * (wanted + 1)) for seeds in (one_seeds, other_seeds))
    forth, back = difference(one, other, wanted), difference(other, one, wanted)
    assert forth.estimate == -back.estimate
    assert forth.low <= forth.estimate <= forth.high
    assert forth.high - forth.low == pytest.approx(back.high - back.low, rel=0.35)  # seeds are drawn anew
    assert 0 <= forth.p <= 1


# --------------------------------------------------------------------------------------- paired t, Holm, pairs


def test_paired_t_is_scipys():
    one, other = np.array([0.52, 0.55, 0.51, 0.60]), np.array([0.50, 0.51, 0.52, 0.55])
    result, expected = paired_t(one, other), stats.ttest_rel(one, other)
    interval = expected.confidence_interval(0.95)
    assert (result.p, result.low, result.high) == pytest.approx((expected.pvalue, interval.low, interval.high))


def test_paired_t_takes_the_seeds_that_both_sides_have():
    found = np.arange(12.0).reshape(3, 4)
    groups = [Group((0, 1, 2), found), Group((2, 7, 0), found[::-1] + 1)]
    result = SMALL.against(0, groups, np.full(4, 20.0))[1]
    assert result is not None
    assert result.paired is not None
    assert (result.paired.seeds, result.paired.estimate) == (2, pytest.approx(4 * 1 / 80))
    alone = SMALL.against(0, [groups[0], Group((8, 9, 2), found)], np.full(4, 20.0))[1]
    assert alone is not None
    assert alone.paired is None


def test_holm_by_hand_and_for_a_larger_family():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02, 0.9], family=5).tolist() == pytest.approx([0.1, 1.0])
    assert holm([]).tolist() == []
    assert [all_pairs(n) for n in (1, 2, 8)] == [0, 1, 28]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=50)
def test_holm_only_raises_p_and_keeps_its_order(p):
    adjusted = holm(p)
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
