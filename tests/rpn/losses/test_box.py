"""The RPN's losses, worked by hand for each divisor and at the knee of smooth L1."""

import math

import pytest
import torch
from torch import Tensor

from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.losses.box import (
    CIoULoss,
    DecodedBoxLoss,
    DIoULoss,
    Divisor,
    GIoULoss,
    IoULoss,
    L1Loss,
    LossCounts,
    Regression,
    RPNLoss,
    SmoothL1Loss,
)
from anchorlab.rpn.losses.objectness import FocalLoss, VarifocalLoss

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
def test_divisors(divisor: Divisor, objectness: float, box: float) -> None:
    assert cost(L1Loss(divisor)) == pytest.approx((objectness, box))
    assert cost(L1Loss(divisor, box_weight=10, objectness_weight=3)) == pytest.approx((3 * objectness, 10 * box))


@pytest.mark.parametrize("beta", [1 / 9, 1.0])
def test_smooth_l1_is_quadratic_up_to_beta(beta: float) -> None:
    loss = SmoothL1Loss(beta=beta)
    for error, expected in ((beta / 2, beta / 8), (beta, beta / 2), (2 * beta, 1.5 * beta)):
        assert cost(loss, torch.tensor([[error, 0.0, 0.0, 0.0]]))[1] == pytest.approx(expected / 8)


def test_beta_zero_is_l1() -> None:
    assert cost(SmoothL1Loss(beta=0)) == cost(L1Loss())


def predicted(box: tuple[float, ...], wanted: tuple[float, ...]) -> Regression:
    """One object's predicted box, from an anchor that is neither of the two."""
    anchor, coder = torch.tensor([[1.0, 2.0, 9.0, 12.0]]), DeltaCoder((10.0, 10.0, 5.0, 5.0))
    one, other = torch.tensor([box]), torch.tensor([wanted])
    return Regression(coder.encode(anchor, one).requires_grad_(), coder.encode(anchor, other), anchor, other, coder)


# The predicted box is twice as tall: the same width, IoU 0.5, nothing in the enclosing box that is in neither.
TALL, FLAT, APART = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 5.0), (20.0, 0.0, 30.0, 10.0)
DISTANCE = 2.5**2 / (10**2 + 10**2)
RATIO = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2


@pytest.mark.parametrize(
    ("loss", "half", "apart"),
    [
        (IoULoss(), 0.5, 1.0),
        (GIoULoss(), 0.5, 1 + 1 / 3),  # 100 of the enclosing 300 belong to neither
        (DIoULoss(), 0.5 + DISTANCE, 1 + 20**2 / (30**2 + 10**2)),
        (CIoULoss(), 0.5 + DISTANCE + RATIO**2 / (0.5 + RATIO), 1 + 20**2 / (30**2 + 10**2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_losses_of_decoded_boxes(loss: RPNLoss, half: float, apart: float) -> None:
    assert loss.box_sum(predicted(TALL, TALL)).item() == pytest.approx(0, abs=1e-5)
    assert loss.box_sum(predicted(TALL, FLAT)).item() == pytest.approx(half, rel=1e-5)
    assert loss.box_sum(predicted(TALL, APART)).item() == pytest.approx(apart, rel=1e-5)
    assert loss.box_sum(errors_of(torch.zeros(0, 4, requires_grad=True))).item() == 0


@pytest.mark.parametrize("loss", [GIoULoss(), DIoULoss(), CIoULoss()], ids=lambda loss: type(loss).__name__)
def test_boxes_that_do_not_touch_are_drawn_together(loss: RPNLoss) -> None:
    regression = predicted(TALL, APART)
    (gradient,) = torch.autograd.grad(loss.box_sum(regression), regression.deltas)
    assert gradient.isfinite().all()
    assert gradient[0, 0] < 0  # t_x grows


OF_DECODED = [IoULoss, GIoULoss, DIoULoss, CIoULoss]


@pytest.mark.parametrize("kind", OF_DECODED)
def test_error_of_the_deltas_is_added(kind: type[DecodedBoxLoss]) -> None:
    alone, both = (kind(delta_weight=weight).box_sum(errors_of(ERRORS)).item() for weight in (0, 0.5))
    smooth_l1 = 2 * 0.5**2 / 2 + (2 - 0.5) + (1 - 0.5)  # of ERRORS, with beta 1
    assert both - alone == pytest.approx(0.5 * smooth_l1, rel=1e-5)


def test_a_loss_of_decoded_boxes_weighs_its_terms_like_any_other() -> None:
    plain = cost(GIoULoss("positives"))
    weighted = GIoULoss("positives", box_weight=10, objectness_weight=3, objectness=FocalLoss())
    objectness, box = cost(weighted)
    assert box == pytest.approx(10 * plain[1])
    assert objectness == pytest.approx(3 * cost(L1Loss("positives", objectness=FocalLoss()))[0])
    assert objectness != pytest.approx(3 * plain[0])


@pytest.mark.parametrize("kind", OF_DECODED)
@pytest.mark.parametrize("too_large", [2.0, 4.0, 9.0])  # the last beyond coder.clip
def test_boxes_far_too_large_are_led_back(kind: type[DecodedBoxLoss], too_large: float) -> None:
    """Also where their overlap says next to nothing: as hard as from anywhere else."""
    errors = torch.tensor([[0.0, 0.0, too_large, too_large]], requires_grad=True)
    (pull,) = torch.autograd.grad(kind(delta_weight=0.1).box_sum(errors_of(errors)), errors)
    assert (pull[0, 2:] > 0.099).all()
    (alone,) = torch.autograd.grad(kind().box_sum(errors_of(errors)), errors)
    assert (alone[0, 2:] < math.exp(-2 * too_large) + 0.02).all()


def test_iou_before_and_after() -> None:
    regression = predicted(TALL, FLAT)
    assert regression.iou.tolist() == pytest.approx([0.5])
    assert regression.anchor_iou.tolist() == pytest.approx([3 * 8 / (80 + 50 - 24)])


def test_objectness_learns_the_iou_of_predicted_boxes() -> None:
    """Of the objects, in their order among the anchors; without a gradient through the box."""
    two = [predicted(TALL, FLAT), predicted(TALL, TALL)]
    deltas, wanted, anchors, boxes = (
        torch.cat([getattr(one, name) for one in two]) for name in ("deltas", "wanted", "anchors", "boxes")
    )
    logits = torch.tensor([0.3, 1.0, -2.0], requires_grad=True)
    regression = Regression(deltas, wanted, anchors, boxes, two[0].coder)
    objectness, _ = L1Loss(objectness=VarifocalLoss())(logits, torch.tensor([True, False, True]), regression, COUNTS)
    expected = VarifocalLoss()(logits, torch.tensor([True, False, True]), torch.tensor([0.5, 0.0, 1.0])) / 3
    torch.testing.assert_close(objectness, expected)
    assert torch.autograd.grad(objectness, deltas, allow_unused=True)[0] is None


def test_positives_or_images_divide_whichever_is_more() -> None:
    labels = torch.zeros(8)
    counts = COUNTS._replace(images=2)
    assert L1Loss("positives")(LOGITS, labels, NOTHING, counts)[0].item() == pytest.approx(8 * math.log(2) / 2)
    counts = counts._replace(positives=5)
    assert L1Loss("positives")(LOGITS, LABELS, errors_of(ERRORS), counts)[1].item() == pytest.approx(4 / 5)
    counts = counts._replace(positives=torch.tensor(5.0), images=torch.tensor(2.0))  # as averaged over processes
    assert L1Loss("positives")(LOGITS, LABELS, errors_of(ERRORS), counts)[1].item() == pytest.approx(4 / 5)


def test_objectness_is_binary_cross_entropy() -> None:
    logits, labels = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1, 1, 0])
    objectness, _ = L1Loss()(logits, labels, errors_of(torch.zeros(2, 4)), COUNTS)
    p = logits.sigmoid()
    torch.testing.assert_close(objectness, -(p[0].log() + p[1].log() + (1 - p[2]).log()) / 3)


@pytest.mark.parametrize("divisor", ["sampled", "budget", "locations", "positives"])
def test_nothing_sampled_costs_nothing_and_has_a_gradient(divisor: Divisor) -> None:
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
        ({"divisor": "mean"}, "divisor"),
        ({"beta": -1}, "beta"),
        ({"box_weight": -1}, "box_weight"),
        ({"objectness_weight": math.nan}, "objectness_weight"),
    ],
)
def test_wrong_settings_are_named(arguments: dict, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        SmoothL1Loss(**arguments)
