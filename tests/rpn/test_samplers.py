"""Samplers: budgets, uniformity, the same sample from the same generator state, and which IoUs are drawn."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anchorlab.rpn.assigners.max_iou import BACKGROUND, IGNORE, OBJECT
from anchorlab.rpn.samplers import AllSampler, BalancedSampler, IoUBalancedSampler, Sampled


def labels(positive: int, negative: int, ignored: int) -> Tensor:
    values = torch.tensor([OBJECT] * positive + [BACKGROUND] * negative + [IGNORE] * ignored, dtype=torch.int8)
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(1))]


def sample(sampler: BalancedSampler | AllSampler, label: Tensor, seed: int = 0) -> Sampled:
    return sampler(label, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        ((200, 1000), (128, 128)),  # both budgets full
        ((128, 128), (128, 128)),
        ((3, 1000), (3, 253)),  # negatives fill up
        ((200, 7), (128, 7)),  # positives do not
        ((0, 1000), (0, 256)),
        ((5, 0), (5, 0)),
        ((0, 0), (0, 0)),
    ],
)
def test_budgets(available, expected):
    positive, negative = sample(BalancedSampler(), labels(*available, ignored=50))
    assert (len(positive), len(negative)) == expected


def test_fraction_is_rounded_down():
    assert len(sample(BalancedSampler(num=5, positive_fraction=0.5), labels(9, 9, 0)).positive) == 2


@given(
    st.tuples(st.integers(0, 30), st.integers(0, 300), st.integers(0, 30)),
    st.integers(1, 40),
    st.floats(0.01, 1),
    st.integers(0, 2**31),
)
@settings(max_examples=100)
def test_is_a_sample_of_each_kind(counts, num, fraction, seed):
    label = labels(*counts)
    sampler = BalancedSampler(num, fraction)
    found = sample(sampler, label, seed)
    for indices, kind in zip(found, (OBJECT, BACKGROUND), strict=True):
        assert indices.dtype == torch.int64
        assert (label[indices] == kind).all()
        assert (indices.diff() > 0).all()  # ascending, so none twice
    assert len(found.positive) == min(counts[0], int(num * fraction))
    assert len(found.negative) == min(counts[1], num - len(found.positive))
    assert all(torch.equal(a, b) for a, b in zip(found, sample(sampler, label, seed), strict=True))


@pytest.mark.parametrize("negatives", [12, 60])  # few of them are permuted, many are drawn
def test_every_anchor_is_equally_likely(negatives):
    label = torch.full((negatives,), BACKGROUND, dtype=torch.int8)
    sampler, generator = BalancedSampler(num=4), torch.Generator().manual_seed(0)
    rounds = 3000
    counts = sum(torch.bincount(sampler(label, generator).negative, minlength=negatives) for _ in range(rounds))
    share = 4 / negatives
    deviation = (rounds * share * (1 - share)) ** 0.5
    assert isinstance(counts, Tensor)
    assert ((counts - rounds * share).abs() < 4.5 * deviation).all()


def test_draws_advance_the_generator():
    label, generator = labels(0, 10_000, 0), torch.Generator().manual_seed(0)
    sampler = BalancedSampler()
    assert not torch.equal(sampler(label, generator).negative, sampler(label, generator).negative)


def test_all_takes_all_but_the_ignored():
    label = labels(3, 5, 4)
    found = sample(AllSampler(), label)
    assert torch.equal(found.positive, (label == OBJECT).nonzero()[:, 0])
    assert torch.equal(found.negative, (label == BACKGROUND).nonzero()[:, 0])
    assert AllSampler.num is None


def above(iou: Tensor, asked: list[float] | None = None):
    """The `overlap` of a sampler, from the IoU (A,) of each anchor."""

    def overlap(least: float) -> Tensor:
        if asked is not None:
            asked.append(least)
        return iou.where(iou >= least, 0)

    return overlap


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((900, 90, 9), (3, 3, 3)),
        ((900, 2, 9), (4, 2, 3)),  # one of those left over is drawn, of 897 + 6
        ((900, 0, 0), (9, 0, 0)),
        ((3, 2, 1), (3, 2, 1)),
    ],
)
def test_each_part_of_the_negatives_gives_as_many(parts, expected):
    """An IoU at an edge lies above it; what a part lacks comes from all that is left."""
    iou = torch.cat([torch.full((count,), value) for count, value in zip(parts, (0.0, 0.1, 0.2), strict=True)])
    asked: list[float] = []
    sampler = IoUBalancedSampler(num=9)
    found = sampler(labels(0, len(iou), 0), torch.Generator().manual_seed(0), above(iou, asked)).negative
    counts = [int((iou[found] == value).sum()) for value in (0.0, 0.1, 0.2)]
    assert sum(counts) == sum(expected)
    assert all(abs(a - b) <= 1 for a, b in zip(counts, expected, strict=True))
    assert asked in ([0.1], [])


@given(st.integers(0, 12), st.integers(0, 80), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**31))
@settings(max_examples=100)
def test_iou_balanced_is_a_sample_of_the_budget(positives, negatives, num, fraction, seed):
    label = labels(positives, negatives, 5)
    iou = torch.rand(len(label), generator=torch.Generator().manual_seed(seed)) * 0.3
    found, again = (
        IoUBalancedSampler(num, fraction)(label, torch.Generator().manual_seed(seed), above(iou)) for _ in range(2)
    )
    balanced = sample(BalancedSampler(num, fraction), label, seed)
    assert torch.equal(found.positive, balanced.positive)
    assert len(found.negative) == len(balanced.negative)
    assert (label[found.negative] == BACKGROUND).all()
    assert (found.negative.diff() > 0).all()
    assert torch.equal(found.negative, again.negative)


@pytest.mark.parametrize("edges", [(), (0.0, 0.1), (0.2, 0.1), (0.1, 0.1), (0.5, 1.0)])
def test_edges_out_of_order(edges):
    with pytest.raises(ValueError, match=r"^edges="):
        IoUBalancedSampler(edges=edges)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"num": 0}, "num=0"),
        ({"positive_fraction": -0.01}, "positive_fraction=-0.01"),
        ({"positive_fraction": 1.01}, "positive_fraction=1.01"),
    ],
)
def test_settings_out_of_range(settings, key):
    with pytest.raises(ValueError, match="must be") as error:
        BalancedSampler(**settings)
    assert str(error.value).startswith(key)
