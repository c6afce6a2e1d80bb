"""Box voting: a mean by hand, the rule in loops, and what it must never do."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from anchorlab.rpn.boxes import pairwise_iou
from anchorlab.rpn.proposals.nms import SoftNMSSelector
from anchorlab.rpn.proposals.tiered_nms import TieredNMSSelector
from anchorlab.rpn.proposals.voting import LEAST_IOU, ROWS, vote
from tests.rpn.proposals.test_nms import SIZE, select

WEIGHT = 0.2 * math.exp(-(0.5**2) / 0.5) / 0.8
"""Of the second box below for the first, whose own is 1: their IoU is a half."""
SELECTORS = [{}, {"kind": SoftNMSSelector}, {"kind": TieredNMSSelector, "tiers": [[1000, 0.7]]}]
PAIR = torch.tensor([[0.0, 0, 10, 30], [0, 0, 10, 15]])
PROBABILITIES = torch.tensor([0.8, 0.2])


def level_of(boxes: Tensor, scores: Tensor) -> Any:
    """For `select`, which takes boxes and logits."""
    return list(zip(boxes.tolist(), scores.logit().tolist(), strict=True))


def random_candidates(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Boxes of at least a pixel, some in one place, and probabilities, some of them 0."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 40
    low = low.where(torch.rand(count, 1, generator=generator) < 0.5, low.new_tensor([20.0, 10.0]))
    boxes = torch.cat((low, low + 1 + torch.rand(count, 2, generator=generator) * 19), dim=1)
    scores = torch.rand(count, generator=generator)
    return boxes, scores.where(scores > 0.1, 0)


def test_mean_by_score_and_nearness() -> None:
    voted = vote(PAIR[:1], PAIR, PROBABILITIES, sigma=0.5)
    torch.testing.assert_close(voted, torch.tensor([[0, 0, 10, (30 + WEIGHT * 15) / (1 + WEIGHT)]]))


@given(st.integers(0, 1000), st.sampled_from([1, 7, ROWS, ROWS + 1, 90]), st.floats(0.005, 1))
def test_is_the_rule_in_loops(seed: int, count: int, sigma: float) -> None:
    boxes, scores = random_candidates(seed, count)
    scores = scores.clamp(min=0.01)
    voted = vote(boxes, boxes, scores, sigma)
    for overlaps, mean in zip(pairwise_iou(boxes, boxes).tolist(), voted.tolist(), strict=True):
        total, sums = 0.0, [0.0] * 4
        for other, score, iou in zip(boxes.tolist(), scores.tolist(), overlaps, strict=True):
            weight = score * math.exp(-((1 - iou) ** 2) / sigma) if iou >= LEAST_IOU else 0.0
            total += weight
            sums = [s + weight * edge for s, edge in zip(sums, other, strict=True)]
        assert mean == pytest.approx([s / total for s in sums], abs=1e-3)


@given(st.integers(0, 1000), st.floats(0.005, 1))
def test_boxes_without_probability_or_neighbours_are_boxes(seed: int, sigma: float) -> None:
    boxes, scores = random_candidates(seed, 40)
    voted = vote(boxes, boxes, scores, sigma)
    assert voted.isfinite().all()
    assert (voted[:, 2:] > voted[:, :2]).all()
    alone = vote(boxes[:1], boxes[:1], torch.zeros(1), sigma)
    torch.testing.assert_close(alone, boxes[:1])


@pytest.mark.parametrize(("height", "votes"), [(15, True), (14.9, False)])
def test_neighbours_vote_from_an_iou_of_a_half(height: float, votes: bool) -> None:
    candidates = torch.tensor([[0.0, 0, 10, 30], [0, 0, 10, height]])
    voted = vote(candidates[:1], candidates, PROBABILITIES, sigma=10)
    assert bool(voted[0, 3] < 29) == votes


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_mixed_precision_makes_no_difference(precision: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([301.3, 299.7, 511.1, 507.9]) + torch.rand(400, 4, generator=generator)
    scores = torch.rand(400, generator=generator)
    with torch.autocast("cpu", precision):
        voted = vote(boxes, boxes, scores, 0.1)
    assert torch.equal(voted, vote(boxes, boxes, scores, 0.1))


@given(st.integers(0, 1000))
def test_no_proposal_is_empty_however_thin_it_was(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x1 = SIZE[1] - 10 ** -torch.empty(40).uniform_(3, 5, generator=generator)  # down to a step of float32
    boxes = torch.stack((x1, x1.new_full((40,), 5), x1.new_full((40,), SIZE[1] + 5), x1.new_full((40,), 20)), dim=1)
    boxes = boxes[x1 < SIZE[1]]
    scores = torch.empty(len(boxes)).uniform_(0.01, 0.99, generator=generator)
    found = select([level_of(boxes, scores)], vote_sigma=0.1).boxes
    assert (found[:, 2:] > found[:, :2]).all()


def test_nothing_to_vote_for() -> None:
    assert vote(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0), 0.02).shape == (0, 4)


@pytest.mark.parametrize("selector", SELECTORS)
def test_every_selector_votes_and_keeps_rank_and_anchor(selector: Any) -> None:
    boxes, scores = random_candidates(3, 60)
    scores = scores.clamp(0.01, 0.99)
    both = level_of(boxes, scores)
    plain = select([both[:40], both[40:]], **selector)
    voted = select([both[:40], both[40:]], **selector, vote_sigma=0.1)
    for name in ("scores", "level", "anchor"):
        assert torch.equal(getattr(plain, name), getattr(voted, name))
    torch.testing.assert_close(voted.boxes, vote(plain.boxes, boxes, scores, 0.1))
    assert not torch.equal(voted.boxes, plain.boxes)


def test_boxes_that_nms_drops_vote_and_those_of_other_levels() -> None:
    pair = level_of(PAIR, PROBABILITIES)
    voted = select([pair], nms_iou=0.4, vote_sigma=0.5)
    assert voted.anchor.tolist() == [0]
    expected = torch.tensor([[0, 0, 10, (30 + WEIGHT * 15) / (1 + WEIGHT)]])
    torch.testing.assert_close(voted.boxes, expected)
    two = select([pair[:1], pair[1:]], nms_iou=0.4, vote_sigma=0.5)
    torch.testing.assert_close(two.boxes[:1], expected)


def test_boxes_that_are_no_proposals_have_no_vote() -> None:
    found = select([level_of(PAIR, PROBABILITIES)], score_threshold=0.5, vote_sigma=0.5)
    assert found.boxes.tolist() == PAIR[:1].tolist()


def test_stays_in_the_image() -> None:
    boxes = torch.tensor([[90.1, 50.1, 103.0, 61.0], [90.3, 50.2, 101.7, 60.3]]).repeat(50, 1)
    found = select([level_of(boxes, torch.linspace(0.9, 0.1, 100))], vote_sigma=0.5).boxes
    assert found[:, 2].max() <= SIZE[1]
    assert found[:, 3].max() <= SIZE[0]


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("sigma", [0, -1, math.nan])
def test_sigma_must_be_positive(selector: Any, sigma: float) -> None:
    with pytest.raises(ValueError, match=r"proposals\.vote_sigma="):
        select([[]], **selector, vote_sigma=sigma)
