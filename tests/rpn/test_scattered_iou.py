"""Anchors without a grid give the overlaps of the lattice, where both can be asked."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anchorlab.rpn import anchor_iou as scattered
from anchorlab.rpn.anchor_iou import Pairs, Scattered
from anchorlab.rpn.anchors import Anchors
from tests.rpn import strategies


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Anchors, Tensor, tuple[float, float, float, float] | None]:
    anchors, size = draw(strategies.anchors())
    boxes = strategies.boxes(draw, anchors, size)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
    return anchors, boxes, draw(st.sampled_from([None, (0.0, 0.0, float(size[1]), float(size[0]))]))


def listed(pairs: Pairs) -> dict[tuple[int, int], float]:
    return {(box, anchor): overlap for anchor, box, overlap in zip(*(field.tolist() for field in pairs), strict=True)}


@given(scenes(), st.sampled_from([0.05, 0.3, 0.5, 1.0]))
@settings(max_examples=60)
def test_equals_the_lattice(scene, threshold):
    anchors, boxes, region = scene
    free = Scattered(anchors.boxes)
    if len(boxes):
        assert torch.equal(free.best_iou(boxes, region), anchors.lattice.best_iou(boxes, region))
    thresholds = torch.full((len(boxes),), threshold)
    found, expected = (a.pairs_above(boxes, thresholds, region) for a in (free, anchors.lattice))
    assert listed(found) == listed(expected)
    assert listed(free.pairs_inside(boxes, threshold)) == listed(anchors.lattice.pairs_inside(boxes, threshold))


def test_parts_make_no_difference(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, generator=generator) * 50
    anchors = torch.cat((corners, corners + 5 + torch.rand(40, 2, generator=generator) * 30), dim=1)
    thresholds = torch.full((12,), 0.2)
    whole = Scattered(anchors).pairs_above(anchors[:12], thresholds)
    monkeypatch.setattr(scattered, "MAX_OVERLAPS", 100)
    assert all(map(torch.equal, whole, Scattered(anchors).pairs_above(anchors[:12], thresholds)))


def test_anchors_and_boxes_without_area_and_no_boxes():
    anchors = torch.tensor([[0.0, 0.0, 0.0, 10.0], [0.0, 0.0, 10.0, 10.0]])
    found = Scattered(anchors).pairs_above(anchors, torch.full((2,), 0.5))
    assert listed(found) == {(1, 1): 1.0}
    none = torch.zeros(0, 4)
    assert len(Scattered(anchors).best_iou(none)) == 0
    assert len(Scattered(anchors).pairs_above(none, torch.zeros(0)).anchor) == 0
