"""The RPN's losses, worked by hand for each divisor and at the knee of smooth L1."""

import math

import pytest
import torch
from torch import Tensor

from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.losses import DIVISORS, L1Loss, LossCounts, Regression, RPNLoss, SmoothL1Loss

COUNTS = LossCounts(budget=512, locations=2400)
LOGITS, LABELS = torch.zeros(8), torch.tensor([1, 1, 0, 0, 0, 0, 0, 0])  # each costs log 2
ERRORS = torch.tensor([[0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 2.0, -1.0]])  # L1: 4


def errors_of(errors: Tensor) -> Regression:
    """Predictions that are wrong by these deltas (P, 4): anchors that lie on their boxes."""
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand_as(errors)
    return Regression(errors, torch.zeros_like(errors), unit, unit, DeltaCoder())


NOTHING = errors_of(torch.zeros(0, 4))


def cost(loss: RPNLoss, errors: Tensor = ERRORS) -> tuple[float, float]:
    objectness, box = loss(LOGITS, LABELS, errors_of(errors), COUNTS)
    assert objectness.dtype == box.dtype == torch.float32
    return objectness.item(), box.item()


@pytest.mark.parametrize(
    ("divisor", "objectness", "box"),
    [
        ("sampled", math.log(2), 4 / 8),
        ("budget", 8 * math.log(2) / 512, 4 / 512),
        ("locations", math.log(2), 4 / 2400),
        ("positives", 8 * math.log(2) / 2, 4 / 2),
    ],
)
def test_divisors(divisor: str, objectness: float, box: float) -> None:
    assert cost(L1Loss(divisor)) == pytest.approx((objectness, box))
    assert cost(L1Loss(divisor, box_weight=10, objectness_weight=3)) == pytest.approx((3 * objectness, 10 * box))


@pytest.mark.parametrize("beta", [1 / 9, 1.0])
def test_smooth_l1_is_quadratic_up_to_beta(beta: float) -> None:
    loss = SmoothL1Loss(beta=beta)
    for error, expected in ((beta / 2, beta / 8), (beta, beta / 2), (2 * beta, 1.5 * beta)):
        assert cost(loss, torch.tensor([[error, 0.0, 0.0, 0.0]]))[1] == pytest.approx(expected / 8)


def test_beta_zero_is_l1() -> None:
    assert cost(SmoothL1Loss(beta=0)) == cost(L1Loss())


def test_objectness_is_binary_cross_entropy() -> None:
    logits, labels = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1, 1, 0])
    objectness, _ = L1Loss()(logits, labels, errors_of(torch.zeros(2, 4)), COUNTS)
    p = logits.sigmoid()
    torch.testing.assert_close(objectness, -(p[0].log() + p[1].log() + (1 - p[2]).log()) / 3)


@pytest.mark.parametrize("divisor", DIVISORS)
def test_nothing_sampled_costs_nothing_and_has_a_gradient(divisor: str) -> None:
    logits, deltas = torch.zeros(0, requires_grad=True), torch.zeros(0, 4, requires_grad=True)
    objectness, box = SmoothL1Loss(divisor=divisor)(logits, torch.zeros(0), errors_of(deltas), COUNTS)
    assert objectness.item() == box.item() == 0
    (objectness + box).backward()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_values_reach_the_loss(bad: float) -> None:
    assert not math.isfinite(cost(SmoothL1Loss(), torch.tensor([[bad, 0.0, 0.0, 0.0]]))[1])
    objectness, _ = L1Loss()(torch.tensor([bad]), torch.tensor([0]), NOTHING, COUNTS)
    assert not objectness.isfinite()


def test_bfloat16_predictions_are_summed_in_float32() -> None:
    many = torch.zeros(2000, dtype=torch.bfloat16)  # a bfloat16 sum would stop growing at 256 terms
    objectness, _ = L1Loss()(many, torch.zeros(2000), NOTHING, COUNTS)
    assert objectness.item() == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"divisor": "mean"}, "loss.divisor"),
        ({"beta": -1}, "loss.beta"),
        ({"box_weight": -1}, "loss.box_weight"),
        ({"objectness_weight": math.nan}, "loss.objectness_weight"),
    ],
)
def test_wrong_settings_are_named(arguments: dict, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        SmoothL1Loss(**arguments)
