"""Tiered NMS: the rule written out in loops, plain NMS as its simplest case, and scores that keep the rank."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import batched_nms

from anchorlab.rpn.boxes import pairwise_iou
from anchorlab.rpn.proposals.tiered_nms import (
    FittedTieredNMSSelector,
    TieredNMSSelector,
    first_of_nms,
    strictly_descending,
)
from tests.rpn.proposals.test_nms import random_level, select

ONE = ((0, 0, 10, 20), 2.0)
TRY = ((0, 0, 10, 15), 1.0)  # at the same object: IoU 3/4 with it
FAR = ((50, 10, 60, 30), 0.0)


def tiered(levels: Any, tiers: Any, **others: Any) -> Any:
    return select(levels, kind=TieredNMSSelector, tiers=tiers, **others)


@pytest.mark.parametrize(
    ("tiers", "order"),
    [
        ([[3, 0.7]], [ONE, FAR]),
        ([[3, 0.75]], [ONE, TRY, FAR]),  # on the threshold: may stay
        ([[2, 0.7], [3, 0.75]], [ONE, FAR, TRY]),
        ([[1, 0.7], [2, 0.8], [3, 0.5]], [ONE, TRY, FAR]),
        ([[2, 0.7], [3, 0.74]], [ONE, FAR]),
    ],
)
def test_second_try_comes_in_the_tier_that_lets_it(tiers: Any, order: Any) -> None:
    found = tiered([[ONE, TRY, FAR]], tiers)
    assert found.boxes.tolist() == [list(box) for box, _ in order]
    assert (found.scores.diff() < 0).all()
    assert found.scores[0] == torch.tensor(2.0).sigmoid()


def test_overlap_counts_within_a_level() -> None:
    assert tiered([[ONE], [TRY]], [[2, 0.5]]).level.tolist() == [0, 1]


def test_overlap_counts_across_levels_in_the_first_tiers_alone() -> None:
    levels, tiers = [[ONE], [TRY, FAR]], [[1, 0.5], [2, 0.5], [3, 0.5]]
    assert tiered(levels, tiers).boxes.tolist() == [list(box) for box, _ in (ONE, TRY, FAR)]
    assert tiered(levels, tiers, across_levels=2).boxes.tolist() == [list(box) for box, _ in (ONE, FAR, TRY)]
    assert len(tiered(levels, tiers, across_levels=3).boxes) == 2


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(1, 20), st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0])), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([0, 10, 1000]),
)
def test_tiers_are_the_rule_in_loops(
    seed: int, steps: list[tuple[int, float]], rounded: bool, across_levels: int
) -> None:
    levels = [random_level(seed, 40, rounded), random_level(seed + 1, 25, rounded)]
    tiers, reached = [], 0
    for step, iou in steps:
        reached += step
        tiers.append([reached, iou])
    everything = select(levels, nms_iou=1.0, min_size=0.0)  # all candidates, best first
    boxes, level = everything.boxes, everything.level
    taken: list[int] = []
    for count, iou in tiers:
        for candidate in range(len(boxes)):
            rivals = [other for other in taken if level[other] == level[candidate] or count <= across_levels]
            overlaps = pairwise_iou(boxes[candidate][None], boxes[rivals])
            if len(taken) < count and candidate not in taken and not (overlaps > iou).any():
                taken.append(candidate)
    found = tiered(levels, tiers, across_levels=across_levels)
    torch.testing.assert_close(found.boxes, boxes[taken], rtol=0, atol=0)
    assert (found.scores.diff() < 0).all()
    assert (found.scores <= everything.scores[taken]).all()


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([0.3, 0.7]), st.integers(1, 60), st.booleans())
def test_one_tier_is_plain_nms(seed: int, iou: float, count: int, rounded: bool) -> None:
    levels = [random_level(seed, 50, rounded), [], random_level(seed + 1, 9, rounded)]
    plain = select(levels, nms_iou=iou, post_nms_top_n=count)
    for found in (tiered(levels, [[count, iou]]), tiered(levels, [[1000, iou]], post_nms_top_n=count)):
        assert torch.equal(found.boxes, plain.boxes)
        torch.testing.assert_close(found.scores, plain.scores, rtol=1e-5, atol=0)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 300), st.integers(0, 90))
def test_few_are_the_first_of_all(seed: int, candidates: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(candidates, 2, generator=generator) * 20
    boxes = torch.cat((corners, corners + 1 + torch.rand(candidates, 2, generator=generator) * 30), dim=1)
    scores = torch.rand(candidates, generator=generator).sort(descending=True).values
    levels = torch.randint(0, 2, (candidates,), generator=generator)
    all_of_them = batched_nms(boxes, scores, levels, 0.4)
    assert torch.equal(first_of_nms(boxes, scores, levels, 0.4, count), all_of_them[:count])


@given(st.lists(st.floats(0, 1, width=32), max_size=30))
def test_scores_descend_and_change_where_they_must(values: list[float]) -> None:
    scores = torch.tensor(values, dtype=torch.float32)
    lowered = strictly_descending(scores)
    expected: list[Tensor] = []
    for score in scores:
        least = torch.nextafter(expected[-1], torch.tensor(0.0)) if expected else torch.tensor(math.inf)
        expected.append(torch.minimum(score, least))
    assert lowered.tolist() == [value.item() for value in expected]


@pytest.mark.parametrize("tiers", [[], [[100]], [[100, 0.7], [100, 0.8]], [[0, 0.7]], [[10, 1.5]], [[10, math.nan]]])
def test_tiers_that_are_none(tiers: Any) -> None:
    with pytest.raises(ValueError, match=r"tiers=\["):
        TieredNMSSelector(tiers)


def test_thresholds_that_were_found_take_the_place_of_those_it_began_with() -> None:
    begun = FittedTieredNMSSelector([(20, 0.7), (100, 0.5)])
    assert (begun.is_fitted, begun.tiers) == (False, [(20, 0.7), (100, 0.5)])
    fitted = FittedTieredNMSSelector([(20, 0.7), (100, 0.5)], thresholds=[0.9, 0.8])
    assert (fitted.is_fitted, fitted.tiers) == (True, [(20, 0.9), (100, 0.8)])
    with pytest.raises(ValueError, match=r"thresholds=\[0\.9\] has 1 numbers for 2 tiers"):
        begun.fit([0.9])
