"""Objectness losses against their published formulas, written out for one anchor, and against torchvision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from anchorlab.rpn.losses.objectness import (
    BinaryCrossEntropy,
    FocalLoss,
    ObjectnessLoss,
    QualityFocalLoss,
    VarifocalLoss,
)

ALL = (BinaryCrossEntropy(), FocalLoss(), QualityFocalLoss(), VarifocalLoss())


def cost(loss: ObjectnessLoss, p: float, is_object: bool, iou: float = 0.0) -> float:
    logit = torch.tensor([math.log(p / (1 - p))], dtype=torch.float64)
    return loss(logit, torch.tensor([is_object]), torch.tensor([iou], dtype=torch.float64)).item()


def entropy(p: float, y: float) -> float:
    return -y * math.log(p) - (1 - y) * math.log(1 - p)


probability = st.floats(0.01, 0.99)


@given(probability, probability)
@settings(max_examples=50)
def test_published_formulas(p, iou):
    assert cost(BinaryCrossEntropy(), p, True, iou) == pytest.approx(-math.log(p), rel=1e-6)
    assert cost(FocalLoss(0.25, 2), p, True) == pytest.approx(-0.25 * (1 - p) ** 2 * math.log(p), rel=1e-4)
    assert cost(FocalLoss(0.25, 2), p, False) == pytest.approx(-0.75 * p**2 * math.log(1 - p), rel=1e-4)
    assert cost(QualityFocalLoss(2), p, True, iou) == pytest.approx((iou - p) ** 2 * entropy(p, iou), abs=1e-9)
    assert cost(QualityFocalLoss(2), p, False) == pytest.approx(-(p**2) * math.log(1 - p), rel=1e-6)
    assert cost(VarifocalLoss(), p, True, iou) == pytest.approx(iou * entropy(p, iou), rel=1e-6)
    assert cost(VarifocalLoss(), p, False) == pytest.approx(-0.75 * p**2 * math.log(1 - p), rel=1e-6)


def test_without_focus_they_are_cross_entropy():
    """QFL with beta 0 and hard targets, focal loss with gamma 0 and alpha a half (times two)."""
    for is_object in (True, False):
        expected = cost(BinaryCrossEntropy(), 0.3, is_object)
        assert cost(QualityFocalLoss(beta=0), 0.3, is_object, float(is_object)) == pytest.approx(expected)
        assert 2 * cost(FocalLoss(alpha=0.5, gamma=0), 0.3, is_object) == pytest.approx(expected)


def test_object_whose_box_misses_counts_as_background():
    assert cost(VarifocalLoss(), 0.4, True, iou=0.0) == cost(VarifocalLoss(), 0.4, False)
    assert cost(QualityFocalLoss(), 0.4, True, iou=0.0) == cost(QualityFocalLoss(), 0.4, False)


def test_focal_loss_is_torchvisions():
    logits, is_object = torch.linspace(-6, 6, 25), torch.arange(25) % 3 == 0
    expected = sigmoid_focal_loss(logits, is_object.float(), alpha=0.4, gamma=1.5, reduction="sum")
    assert torch.equal(FocalLoss(0.4, 1.5)(logits, is_object, torch.zeros(25)), expected)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_certain_logits_and_no_logits(loss):
    """Sure to be right costs nothing; a sure mistake is finite, and so is its gradient; no anchors cost nothing."""
    logits = torch.tensor([200.0, -200.0, -200.0, 200.0], requires_grad=True)
    is_object, iou = torch.tensor([True, False, True, False]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    right = loss(logits[:2], is_object[:2], iou[:2])
    assert right.item() == 0
    wrong = loss(logits[2:], is_object[2:], iou[2:])
    assert wrong.isfinite()
    (gradient,) = torch.autograd.grad(wrong, logits)
    assert gradient.isfinite().all()
    none = torch.zeros(0, requires_grad=True)
    empty: Tensor = loss(none, torch.zeros(0, dtype=torch.bool), torch.zeros(0))
    assert empty.item() == 0
    empty.backward()


@pytest.mark.parametrize("loss", [QualityFocalLoss(), VarifocalLoss()], ids=lambda loss: type(loss).__name__)
def test_logit_descends_to_the_iou(loss):
    """The loss of an object is least where its probability is its box's IoU."""
    p = torch.linspace(0.05, 0.95, 91)
    costs = [cost(loss, value, True, iou=0.6) for value in p.tolist()]
    assert p[costs.index(min(costs))].item() == pytest.approx(0.6, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: FocalLoss(alpha=1.5), "alpha=1.5"),
        (lambda: FocalLoss(gamma=-1), "gamma=-1"),
        (lambda: QualityFocalLoss(beta=-0.1), "beta=-0.1"),
        (lambda: VarifocalLoss(alpha=-1), "alpha=-1"),
        (lambda: VarifocalLoss(gamma=-1), "gamma=-1"),
    ],
)
def test_settings_out_of_range(make, key):
    with pytest.raises(ValueError, match="must be") as error:
        make()
    assert str(error.value).startswith(key)
