"""DeltaCoder against the formula worked by hand, against torchvision's BoxCoder, and as a round trip."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from anchorlab.rpn.coders import DeltaCoder, FittedDeltaCoder

ANCHOR = torch.tensor([[10.0, 20.0, 50.0, 40.0]])  # centre (30, 30), 40 wide, 20 high
BOX = torch.tensor([[30.0, 25.0, 50.0, 65.0]])  # centre (40, 45), 20 wide, 40 high


@st.composite
def box_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Up to 5 anchors and as many boxes, sides 1 to 500 pixels, anywhere within 1000."""
    count = draw(st.integers(0, 5))
    corner, side = st.floats(-100, 1000, width=32), st.floats(1, 500, width=32)
    values = draw(st.lists(st.tuples(corner, corner, side, side), min_size=2 * count, max_size=2 * count))
    xywh = torch.tensor(values, dtype=torch.float32).reshape(-1, 4)
    boxes = torch.cat((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), dim=1)
    return boxes[:count], boxes[count:]


def test_formula_by_hand() -> None:
    expected = torch.tensor([[10 / 40, 15 / 20, math.log(1 / 2), math.log(2)]])
    torch.testing.assert_close(DeltaCoder().encode(ANCHOR, BOX), expected)
    torch.testing.assert_close(DeltaCoder().decode(ANCHOR, expected), BOX)


def test_weights_multiply_the_deltas() -> None:
    plain, weighted = DeltaCoder(), DeltaCoder(weights=[10, 10, 5, 5])
    expected = plain.encode(ANCHOR, BOX) * torch.tensor([10.0, 10.0, 5.0, 5.0])
    torch.testing.assert_close(weighted.encode(ANCHOR, BOX), expected)
    torch.testing.assert_close(weighted.decode(ANCHOR, expected), BOX)


def test_means_are_what_a_delta_of_0_stands_for() -> None:
    means = DeltaCoder().encode(ANCHOR, BOX)[0].tolist()
    coder = DeltaCoder((2, 2, 1, 1), means=means)
    torch.testing.assert_close(coder.decode(ANCHOR, torch.zeros(1, 4)), BOX)
    beside = coder.encode(ANCHOR, ANCHOR)  # t = 0
    torch.testing.assert_close(beside, torch.tensor([[-2 * means[0], -2 * means[1], -means[2], -means[3]]]))


def test_clip_is_of_the_growth_not_of_the_delta() -> None:
    coder = DeltaCoder((1, 1, 4, 4), clip=1.0, means=(0, 0, 0.5, 0.5))
    grown = coder.decode(ANCHOR, torch.tensor([[0.0, 0, 2.0, 9.0]]))[0]  # t_w = 2 / 4 + 0.5, t_h beyond the clip
    torch.testing.assert_close(grown[2] - grown[0], torch.tensor(40 * math.e))
    torch.testing.assert_close(grown[3] - grown[1], torch.tensor(20 * math.e))


def test_plain_layer_gives_the_same_boxes_to_a_coder_without_means_and_weights() -> None:
    coder, features = DeltaCoder((4, 3, 2, 1), means=(0.1, -0.1, -1, 0.5)), torch.randn(7, 8)
    weight, bias = torch.randn(8, 8, 1, 1), torch.randn(8)
    deltas = (features @ weight.flatten(1).T + bias).view(7, 2, 4)
    plain_weight, plain_bias = coder.plain_layer(weight, bias)
    moves = (features @ plain_weight.flatten(1).T + plain_bias).view(7, 2, 4)
    anchors = ANCHOR.expand(7, 2, 4)
    torch.testing.assert_close(DeltaCoder().decode(anchors, moves), coder.decode(anchors, deltas))


def test_a_coder_to_be_fitted_is_the_papers_until_then() -> None:
    assert torch.equal(FittedDeltaCoder().encode(ANCHOR, BOX), DeltaCoder().encode(ANCHOR, BOX))
    fitted = FittedDeltaCoder(means=[0, 0, -1, -1], weights=[4, 4, 1, 1])
    assert fitted.is_fitted
    assert torch.equal(fitted.encode(ANCHOR, BOX), DeltaCoder([4, 4, 1, 1], means=[0, 0, -1, -1]).encode(ANCHOR, BOX))


@settings(max_examples=60)
@given(box_pairs(), st.sampled_from([(0.0, 0.0, 0.0, 0.0), (0.1, -0.1, -1.0, 0.5)]))
def test_decode_inverts_encode(pair: tuple[Tensor, Tensor], means: tuple[float, float, float, float]) -> None:
    anchors, boxes = pair
    coder = DeltaCoder(clip=None, means=means)
    torch.testing.assert_close(coder.decode(anchors, coder.encode(anchors, boxes)), boxes, rtol=1e-4, atol=2e-3)


@settings(max_examples=60)
@given(box_pairs(), st.sampled_from([(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]))
def test_equals_torchvision(pair: tuple[Tensor, Tensor], weights: tuple[float, float, float, float]) -> None:
    anchors, boxes = pair
    ours, theirs = DeltaCoder(weights), BoxCoder(weights)
    deltas = theirs.encode_single(boxes, anchors)
    assert torch.equal(ours.encode(anchors, boxes), deltas)
    assert torch.equal(ours.decode(anchors, deltas), theirs.decode_single(deltas, anchors))


def test_clip_limits_the_growth_and_nothing_else() -> None:
    limit = math.log(1000 / 16)
    deltas = torch.tensor([[100.0, -100.0, limit, -50.0], [100.0, -100.0, limit + 1, -50.0]])
    at_limit, beyond = DeltaCoder().decode(ANCHOR.expand(2, 4), deltas)
    torch.testing.assert_close(at_limit[2] - at_limit[0], torch.tensor(62.5 * 40))
    assert torch.equal(at_limit, beyond)
    assert torch.equal(
        FittedDeltaCoder(clip=math.e).decode(ANCHOR, deltas[:1]), DeltaCoder(clip=math.e).decode(ANCHOR, deltas[:1])
    )
    unlimited = DeltaCoder(clip=None).decode(ANCHOR, deltas[1:])[0]
    torch.testing.assert_close(unlimited[2] - unlimited[0], torch.tensor(math.e * 62.5 * 40))


def test_leading_axes_and_empty_input() -> None:
    coder = DeltaCoder()
    deltas = torch.randn(2, 3, 4)
    decoded = coder.decode(ANCHOR.expand(3, 4), deltas)
    assert torch.equal(decoded[1], coder.decode(ANCHOR.expand(3, 4), deltas[1]))
    none = torch.zeros(0, 4)
    assert coder.encode(none, none).shape == coder.decode(none, none).shape == (0, 4)


def test_half_precision_is_raised_to_float32_and_double_is_kept() -> None:
    coder = DeltaCoder()
    assert coder.decode(ANCHOR, torch.zeros(1, 4, dtype=torch.bfloat16)).dtype == torch.float32
    assert coder.encode(ANCHOR.double(), BOX.double()).dtype == torch.float64


def test_a_box_without_area_is_not_hidden() -> None:
    assert not DeltaCoder().encode(ANCHOR, torch.tensor([[30.0, 25.0, 30.0, 65.0]])).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"weights": [1, 1, 1]}, "weights"),
        ({"weights": [1, 1, 0, 1]}, "weights"),
        ({"clip": 0}, "clip"),
        ({"means": [0, 0, 0]}, "means"),
    ],
)
def test_wrong_settings_are_named(arguments: dict, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        DeltaCoder(**arguments)
