"""Ranks by hand and by brute force: a rank equal to the budget is one too late, sums over images give the metric."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorlab.metrics.from_ranks import (
    AREA_RANGES,
    KINDS,
    THRESHOLDS,
    UNMATCHED,
    Metric,
    Ranks,
    ar_of_oracle,
    found_within,
    metrics_from_ranks,
    recall_from_ranks,
)

T, A = len(THRESHOLDS), len(AREA_RANGES)


def random_ranks(seed: int, images: int = 7) -> Ranks:
    """Boxes that no range counts, images without boxes, ranks around the budgets."""
    rng = np.random.default_rng(seed)
    num_boxes = rng.integers(0, 4, images)
    counted = rng.random((num_boxes.sum(), A)) < 0.6
    rank = rng.choice([0, 1, 9, 10, 11, 99, 100, UNMATCHED], (len(counted), T, A))
    rank = np.where(counted[:, None], rank, UNMATCHED).astype(np.int32)
    return Ranks(np.arange(images), num_boxes.astype(np.int32), rank, counted)


def test_a_box_is_found_by_one_proposal_more_than_its_rank():
    rank = np.array([0, 9, 10, UNMATCHED], dtype=np.int32)[:, None, None]
    assert found_within(rank, [10, 1, 11, 10])[:, 0, 0].tolist() == [2, 1, 3, 2]


@given(st.integers(0, 1000), st.lists(st.integers(1, 120), min_size=1, max_size=5))
@settings(max_examples=50)
def test_found_within_counts_as_comparing_does(seed, budgets):
    rank = random_ranks(seed).rank
    np.testing.assert_array_equal(found_within(rank, budgets), np.stack([(rank < n).sum(axis=0) for n in budgets]))


@given(st.integers(0, 1000))
@settings(max_examples=50)
def test_sums_over_images_give_every_metric(seed):
    ranks = random_ranks(seed)
    for key, value in metrics_from_ranks(ranks.rank, ranks.counted, [1, 10, 100]).items():
        found, wanted = Metric.of(key).per_image(ranks)
        assert len(found) == len(wanted) == len(ranks.num_boxes)
        assert value == pytest.approx(found.sum() / wanted.sum() if wanted.sum() else -1)


def test_without_any_box_every_metric_is_minus_one():
    ranks = random_ranks(0, images=0)
    assert (recall_from_ranks(ranks.rank, ranks.counted, [10]) == -1).all()
    assert set(metrics_from_ranks(ranks.rank, ranks.counted, [10]).values()) == {-1.0}


def test_keys_name_metrics():
    assert Metric.of("recall_7") == Metric(KINDS["recall"], 7)
    assert (Metric.of("AR_l_1000").area, Metric.of("AR_l_1000").budget) == (3, 1000)
    for wrong in ("AR_0", "AR@100", "recall_s_100", "AR_", "loss"):
        with pytest.raises(ValueError, match="is no metric"):
            Metric.of(wrong)


def test_metrics_are_written_as_people_say_them():
    assert str(Metric.of("AR_100")) == "AR@100"
    assert str(Metric.of("recall_iou70_300")) == "recall (IoU 0.7)@300"
    assert str(Metric.of("AR_s_10")) == "AR small@10"


def test_oracle_finds_as_many_boxes_as_it_may_propose():
    """Two images: three boxes found at ranks 5, 50 and never, and one box found at rank 7 at IoU 0.5 alone."""
    rank = np.full((4, T, A), UNMATCHED, dtype=np.int32)
    rank[0], rank[1], rank[3, 0] = 5, 50, 7
    ranks = Ranks(np.arange(2), np.array([3, 1], dtype=np.int32), rank, np.ones((4, A), dtype=bool))
    found = ar_of_oracle(ranks, [1, 2, 10])
    assert found == {"AR_1": pytest.approx(11 / 40), "AR_2": pytest.approx(21 / 40), "AR_10": pytest.approx(21 / 40)}


@given(st.integers(0, 1000))
@settings(max_examples=50)
def test_no_ranking_is_better_than_the_oracle_s(seed):
    """And with all proposals they are equal."""
    ranks = random_ranks(seed)
    metrics = metrics_from_ranks(ranks.rank, ranks.counted, [1, 10, 1000])
    for key, value in ar_of_oracle(ranks, [1, 10, 1000]).items():
        assert value >= metrics[key] - 1e-12
    assert ar_of_oracle(ranks, [1000])["AR_1000"] == pytest.approx(metrics["AR_1000"])


def test_oracle_without_boxes_is_minus_one():
    assert ar_of_oracle(random_ranks(0, images=0), [10]) == {"AR_10": -1.0}
