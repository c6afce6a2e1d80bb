"""The quality output: which anchors teach it, what it learns, and how its score ranks proposals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.boxes import pairwise_iou
from anchorlab.rpn.losses.quality import CenternessQuality, IoUQuality, Near, Quality, mean_logit
from tests.rpn import strategies

# One anchor of 8 x 8 in each cell of a 3 x 5 grid of stride 8, centred in it.
ANCHORS = AnchorGrid(shapes=[[8, 8]], offset=0.5, strides=(8,))([(3, 5)], (24, 40), "cpu")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_anchor_at_the_least_iou_teaches():
    box = torch.tensor([[12.0, 8.0, 20.0, 16.0]])  # half of two anchors: IoU 1 / 3 with each
    assert IoUQuality(least_iou=1 / 3).draw(ANCHORS, box, seeded()).anchor.tolist() == [6, 7]
    assert len(IoUQuality(least_iou=0.34).draw(ANCHORS, box, seeded()).anchor) == 0


def test_background_comes_last_and_from_the_others():
    box = torch.tensor([[8.0, 8.0, 16.0, 16.0]])
    near = IoUQuality(background=4).draw(ANCHORS, box, seeded())
    assert near.anchor[0] == 6
    assert 6 not in near.anchor[1:]
    assert near.is_near.tolist() == [True, False, False, False, False]
    assert torch.equal(near.boxes[0], box[0])


def test_no_boxes_no_anchors_that_teach():
    near = IoUQuality().draw(ANCHORS, torch.zeros(0, 4), seeded())
    assert len(near.anchor) == len(near.boxes) == len(near.is_near) == 0


@st.composite
def scenes(draw):
    anchors, size = draw(strategies.anchors())
    return anchors, strategies.boxes(draw, anchors, size)


@given(scenes(), st.integers(1, 20), st.sampled_from([0.3, 0.5]))
@settings(max_examples=60)
def test_draws_from_the_anchors_that_lie_near(scene, num, least):
    anchors, boxes = scene
    near = IoUQuality(num=num, least_iou=least).draw(anchors, boxes, seeded())
    if len(boxes) == 0:
        return
    best, box = pairwise_iou(anchors.boxes, boxes).nan_to_num(0).max(dim=1)
    candidates = (best >= least).nonzero()[:, 0]
    assert len(near.anchor) == min(num, len(candidates))
    assert torch.isin(near.anchor, candidates).all()
    assert torch.equal(near.boxes, boxes[box[near.anchor]])


def test_iou_target_is_of_the_predicted_box_and_none_of_the_background():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 0.0, 0.0]])
    near = Near(torch.tensor([0, 1]), boxes, torch.tensor([True, False]))
    predicted = torch.tensor([[0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 4.0, 4.0]], requires_grad=True)
    target = IoUQuality().target(torch.zeros(2, 4), predicted, near)
    assert target.tolist() == [0.5, 0.0]
    assert not target.requires_grad


@pytest.mark.parametrize(
    ("centre", "expected"),
    [
        ((5.0, 10.0), 1.0),
        ((2.5, 10.0), math.sqrt(1 / 3)),  # l = 2.5, r = 7.5
        ((2.5, 5.0), math.sqrt(1 / 9)),
        ((0.0, 10.0), 0.0),  # on the side
        ((-1.0, 10.0), 0.0),  # outside
    ],
)
def test_centerness_of_fcos(centre, expected):
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of an anchor's centre in a box of 10 x 20."""
    x, y = centre
    anchor = torch.tensor([[x - 3, y - 2, x + 3, y + 2]])
    found = CenternessQuality().measure(anchor, torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 10.0, 20.0]]))
    assert found.item() == pytest.approx(expected)


def test_loss_is_a_weighted_mean_of_cross_entropies():
    logits, target = torch.tensor([0.0, 2.0], requires_grad=True), torch.tensor([0.3, 1.0])
    loss = IoUQuality(weight=0.5).loss(logits, target, 2)
    assert loss.item() == pytest.approx(0.5 * (math.log(2) + math.log(1 + math.exp(-2))) / 2)


@given(st.floats(-30, 30), st.floats(-30, 30))
@settings(max_examples=100)
def test_mean_logit_is_that_of_the_geometric_mean(a, b):
    x, y = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    expected = (x.sigmoid() * y.sigmoid()).sqrt()
    torch.testing.assert_close(mean_logit(x, y).sigmoid(), expected, rtol=1e-6, atol=1e-9)


def test_mean_logit_of_extremes_is_finite_and_ordered():
    extremes = torch.tensor([-200.0, -100.0, 0.0, 15.0, 60.0, 200.0])
    ranked = mean_logit(extremes, extremes)
    assert ranked.isfinite().all()
    assert (ranked.diff() >= 0).all()


def test_scores():
    a, b = torch.tensor([1.0]), torch.tensor([-2.0])
    assert torch.equal(IoUQuality(score="objectness").rank(a, b), a)
    assert torch.equal(IoUQuality(score="quality").rank(a, b), b)
    assert torch.equal(IoUQuality(score="both").rank(a, b), mean_logit(a, b))
    assert ("both", "quality", "objectness") == ("both", "quality", "objectness")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"num": 0}, "num=0"),
        ({"least_iou": 0.0}, "least_iou=0.0"),
        ({"background": -1}, "background=-1"),
        ({"weight": -1.0}, "weight=-1.0"),
        ({"score": "best"}, "score=best"),
    ],
)
def test_settings_out_of_range(settings, key):
    with pytest.raises(ValueError, match="must be") as error:
        Quality(**settings)
    assert str(error.value).startswith(key)
