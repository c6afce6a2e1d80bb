"""Shares of variance: worked-out cases, brute force over the whole space, and what no setting explains."""

import itertools

import numpy as np
import pytest

from anchorlab.comparing.importance import FEWEST, _grown, importances


def grid(**values):
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


def test_of_an_additive_metric_each_setting_has_its_share():
    rows = grid(lr=[0.001, 0.01, 0.1], k=[3, 6, 9], mode=["a", "b"]) * 4
    scores = [0.3 * np.log10(row["lr"]) + 0.1 * (row["mode"] == "b") for row in rows]
    found = importances(rows, scores, ["mode", "k", "lr"])
    assert found is not None
    shares = {one.key: one for one in found.settings}
    whole = 0.3**2 * 2 / 3 + 0.05**2  # variances of -1, 0, 1 and of -0.5, 0.5
    assert shares["lr"].share == pytest.approx(0.3**2 * 2 / 3 / whole, abs=0.02)
    assert shares["mode"].share == pytest.approx(0.05**2 / whole, abs=0.02)
    assert shares["k"].share == pytest.approx(0, abs=0.01)
    assert [one.key for one in found.settings] == ["lr", "mode", "k"]
    assert found.fit > 0.95


def test_noise_is_not_explained():
    rows = grid(lr=[0.001, 0.01, 0.1], k=[3, 6, 9]) * 3
    found = importances(rows, np.random.default_rng(0).normal(size=len(rows)).tolist(), ["lr", "k"])
    assert found is not None
    assert found.fit < 0.2
    assert all(one.high - one.low > 0.3 for one in found.settings), "the trees do not agree"


def test_shares_of_a_tree_are_those_of_all_its_predictions():
    rng = np.random.default_rng(1)
    levels = np.array([4, 3, 2])
    codes = np.stack([rng.integers(0, count, 60) for count in levels], axis=1)
    y = codes[:, 0] * codes[:, 1] + rng.normal(0, 0.1, 60)
    tree = _grown(codes, y, levels)
    space = np.array(list(itertools.product(*map(range, levels))))
    predicted = np.array([tree.predict(code) for code in space])
    for at, count in enumerate(levels):
        marginal = [predicted[space[:, at] == level].mean() for level in range(count)]
        assert tree.shares(levels)[at] == pytest.approx(np.var(marginal) / np.var(predicted))


@pytest.mark.parametrize(
    ("rows", "scores"),
    [
        (grid(k=[3, 6]), [0.1, 0.2]),
        (grid(k=[3]) * FEWEST, np.arange(FEWEST)),
        (grid(k=[3, 6]) * FEWEST, np.ones(2 * FEWEST)),
    ],
    ids=["few runs", "one value", "one score"],
)
def test_where_nothing_can_be_told_nothing_is_said(rows, scores):
    assert importances(rows, scores, ["k"]) is None
