"""The lattice against brute force over all anchors: every number equal, not close."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anchorlab.rpn import anchor_iou as lattice
from anchorlab.rpn.anchor_iou import Pairs
from anchorlab.rpn.anchors import AnchorGrid, Anchors
from anchorlab.rpn.boxes import pairwise_iof, pairwise_iou
from tests.rpn import strategies


def inside(anchors: Anchors, region: lattice.Region | None) -> Tensor:
    if region is None:
        return torch.ones(len(anchors.boxes), dtype=torch.bool)
    left_top, right_bottom = torch.tensor(region[:2]), torch.tensor(region[2:])
    return ((anchors.boxes[:, :2] >= left_top) & (anchors.boxes[:, 2:] <= right_bottom)).all(dim=1)


def as_dict(pairs: Pairs) -> dict[tuple[int, int], float]:
    found = dict(zip(zip(pairs.anchor.tolist(), pairs.box.tolist(), strict=True), pairs.overlap.tolist(), strict=True))
    assert len(found) == len(pairs.anchor), "a pair was found twice"
    return found


def dense_pairs(overlap: Tensor, wanted: Tensor) -> dict[tuple[int, int], float]:
    return {(a, g): overlap[a, g].item() for a, g in wanted.nonzero().tolist()}


@st.composite
def questions(draw: st.DrawFn) -> tuple[Anchors, Tensor, lattice.Region | None]:
    anchors, size = draw(strategies.anchors())
    boxes = strategies.boxes(draw, anchors, size)
    border = draw(st.sampled_from([None, 0.0, 3.5, 20.0]))
    region = None if border is None else (-border, -border, size[1] + border, size[0] + border)
    return anchors, boxes, region


@given(questions())
@settings(max_examples=250)
def test_best_iou_equals_brute_force(question):
    anchors, boxes, region = question
    iou = pairwise_iou(boxes, anchors.boxes) * inside(anchors, region)
    assert torch.equal(anchors.lattice.best_iou(boxes, region), iou.amax(dim=1))


@given(questions(), st.sampled_from([1e-4, 0.05, 0.3, 0.5, 0.7, 1.0, "best"]))
@settings(max_examples=250)
def test_pairs_above_equal_brute_force(question, threshold):
    anchors, boxes, region = question
    iou = pairwise_iou(anchors.boxes, boxes) * inside(anchors, region)[:, None]
    best = iou.amax(dim=0)
    # A box may ask for exactly its best IoU: no tie may be lost.
    limit = torch.where(best > 0, best, 0.5) if threshold == "best" else torch.full((len(boxes),), threshold)
    found = as_dict(anchors.lattice.pairs_above(boxes, limit, region))
    assert found == dense_pairs(iou, iou >= limit)


@given(questions(), st.sampled_from([0.01, 0.5, 1.0]))
@settings(max_examples=100)
def test_pairs_inside_equal_brute_force(question, share):
    anchors, boxes, _ = question
    iof = pairwise_iof(anchors.boxes, boxes)
    assert as_dict(anchors.lattice.pairs_inside(boxes, share)) == dense_pairs(iof, iof >= share)


def test_threshold_met_exactly_counts():
    anchors = AnchorGrid(shapes=[[[8, 8]]], offset=0.5, strides=[8])([(1, 3)], (8, 24), "cpu")
    box = torch.tensor([[4.0, 0.0, 12.0, 8.0]])  # half of anchor 0 and half of anchor 1: IoU 32 / 96
    third = (torch.tensor(32.0) / torch.tensor(96.0)).reshape(1)
    assert anchors.lattice.best_iou(box).item() == third.item()
    assert sorted(as_dict(anchors.lattice.pairs_above(box, third))) == [(0, 0), (1, 0)]
    above = torch.nextafter(third, torch.ones(1))
    assert as_dict(anchors.lattice.pairs_above(box, above)) == {}


def test_columns_are_not_rows():
    anchors = AnchorGrid(shapes=[[[4, 8]]], offset=0.5, strides=[10])([(2, 3)], (20, 30), "cpu")
    wide, tall = torch.tensor([[21.0, 13.0, 29.0, 17.0]]), torch.tensor([[23.0, 11.0, 27.0, 19.0]])
    assert anchors.lattice.best_iou(tall).item() == 1.0
    assert as_dict(anchors.lattice.pairs_above(tall, torch.ones(1))) == {(5, 0): 1.0}
    assert anchors.lattice.best_iou(wide).item() == pytest.approx(16 / 48)


@pytest.mark.parametrize("coordinate", [1000, 4000, 8000])
def test_exact_far_from_the_origin(coordinate):
    """float32 rounds widths there: an anchor 4.7 pixels wide has several."""
    cells = -(-coordinate // 16)
    anchors = AnchorGrid([4.7, 21.3], strides=[16, 32])([(3, cells), (2, cells // 2)], (48, coordinate), "cpu")
    assert (anchors.levels[0].x2 - anchors.levels[0].x1)[:, 0].unique().numel() > 1
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(40, 2, generator=generator) * torch.tensor([coordinate - 30.0, 20.0])
    boxes = torch.cat((corner, corner + 1 + 30 * torch.rand(40, 2, generator=generator)), dim=1)
    boxes = torch.cat((boxes, anchors.boxes[torch.randint(len(anchors.boxes), (20,), generator=generator)]))
    iou = pairwise_iou(anchors.boxes, boxes)
    best = anchors.lattice.best_iou(boxes)
    assert torch.equal(best, iou.amax(dim=0))
    assert as_dict(anchors.lattice.pairs_above(boxes, best)) == dense_pairs(iou, iou >= best)


def test_no_boxes():
    anchors = AnchorGrid([8], strides=[8])([(2, 3)], (16, 24), "cpu")
    none = torch.zeros(0, 4)
    assert anchors.lattice.best_iou(none).shape == (0,)
    assert len(anchors.lattice.pairs_above(none, torch.zeros(0)).anchor) == 0
    assert len(anchors.lattice.pairs_inside(none, 0.5).anchor) == 0


def test_no_anchor_in_the_region():
    anchors = AnchorGrid([64], strides=[8])([(2, 3)], (16, 24), "cpu")
    region = (0.0, 0.0, 24.0, 16.0)
    box = torch.tensor([[0.0, 0.0, 24.0, 16.0]])
    assert anchors.lattice.best_iou(box).item() > 0
    assert anchors.lattice.best_iou(box, region).item() == 0
    assert len(anchors.lattice.pairs_above(box, torch.tensor([0.01]), region).anchor) == 0


def test_taking_boxes_in_parts_changes_nothing(monkeypatch):
    anchors = AnchorGrid([8, 20], strides=[8, 16])([(5, 7), (3, 4)], (40, 56), "cpu")
    boxes = anchors.boxes[::7] + 1.3
    whole = anchors.lattice.best_iou(boxes)
    monkeypatch.setattr(lattice, "MAX_OVERLAPS", 1)
    assert torch.equal(anchors.lattice.best_iou(boxes), whole)
