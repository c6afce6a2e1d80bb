"""Boxes placed on grids of their own, against brute force over all anchors: every IoU equal, not close."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anchorlab.analysis import closed_form as placement
from anchorlab.analysis.closed_form import Cells, Placement, Shape, Spans
from anchorlab.rpn.anchors import AnchorGrid, Anchors
from anchorlab.rpn.boxes import pairwise_iou
from tests.rpn import strategies


@st.composite
def questions(draw: st.DrawFn) -> tuple[Placement, Shape, Tensor, list[Anchors], list]:
    """Boxes of a few images on one level, the anchors of each box's image, and the region in which they exist."""
    step = draw(st.sampled_from([3, 8, 16, 33]))
    offset = draw(st.sampled_from([0.0, 0.5, 0.3]))
    extent = st.one_of(st.floats(2, 90, width=32), st.integers(2, 90).map(float))
    grid = AnchorGrid(shapes=[[[draw(extent), draw(extent)]]], offset=offset, strides=[step])
    border = draw(st.sampled_from([None, 0.0, 3.5, 20.0]))
    boxes, columns, rows, sizes, anchors = [], [], [], [], []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.integers(20, 90)), draw(st.integers(20, 140))
        cells = (-(-size[0] // step), -(-size[1] // step))
        made = grid([cells], size, "cpu")
        found = strategies.boxes(draw, made, size, max_boxes=4)
        boxes.append(found)
        rows += [cells[0]] * len(found)
        columns += [cells[1]] * len(found)
        sizes += [size] * len(found)
        anchors += [made] * len(found)
    high = torch.tensor(sizes, dtype=torch.float64).reshape(-1, 2) + (border or 0)

    def axis(counts: list[int], at: int) -> Cells:
        bounds = None if border is None else (-border, high[:, at].float())
        return Cells(torch.tensor(counts, dtype=torch.int64), step, offset, bounds)

    every = torch.cat(boxes)
    ((width, height),) = grid.shapes[0].tolist()
    regions = [None if border is None else (-border, -border, w, h) for h, w in high.tolist()]
    placed = Placement(Spans(every), axis(columns, 1), axis(rows, 0))
    return placed, (width, height), every, anchors, regions


def brute_force(boxes: Tensor, anchors: list[Anchors], regions: list) -> list[Tensor]:
    """IoU of each box with every anchor of its image, 0 for those outside the region."""
    found = []
    for box, made, region in zip(boxes, anchors, regions, strict=True):
        iou = pairwise_iou(box[None], made.boxes)[0]
        if region is not None:
            low, high = torch.tensor(region[:2]), torch.tensor(region[2:])
            iou = iou * ((made.boxes[:, :2] >= low) & (made.boxes[:, 2:] <= high)).all(dim=1)
        found.append(iou)
    return found


@given(questions())
@settings(max_examples=400)
def test_best_iou_equals_brute_force(question):
    placed, shape, boxes, anchors, regions = question
    expected = torch.tensor([iou.max() for iou in brute_force(boxes, anchors, regions)])
    assert torch.equal(placed.exact(shape, torch.arange(len(boxes))), expected)
    estimate = torch.empty(len(boxes))
    placed.estimate(shape, estimate)
    assert ((estimate - expected).abs() <= placed.tolerance(shape)).all()


@given(questions(), st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.95]))
@settings(max_examples=250)
def test_count_above_equals_brute_force_but_for_rounding(question, threshold):
    placed, shape, boxes, anchors, regions = question
    counts = placed.count_above(shape, threshold, torch.arange(len(boxes))).tolist()
    slack = placed.tolerance(shape)
    for count, iou in zip(counts, brute_force(boxes, anchors, regions), strict=True):
        assert (iou >= threshold + slack).sum() <= count <= (iou >= threshold - slack).sum()


@pytest.mark.parametrize(("size", "step", "offset"), [(4.7, 16, 0.0), (21.3, 4, 0.0), (21.3, 7, 0.3), (64.1, 8, 0.5)])
@pytest.mark.parametrize("coordinate", [1000, 4000, 8000])
def test_exact_far_from_the_origin(coordinate, size, step, offset):
    """float32 rounds widths there: anchors of one shape have several."""
    cells = -(-coordinate // step)
    grid = AnchorGrid([size], ratios=[0.77], offset=offset, strides=[step])
    anchors = grid([(2, cells)], (48, coordinate), "cpu")
    assert (anchors.levels[0].x2 - anchors.levels[0].x1).unique().numel() > 1
    generator = torch.Generator().manual_seed(0)
    sides = 1 + 2 * size * torch.rand(300, 2, generator=generator)
    corner = torch.rand(300, 2, generator=generator) * torch.tensor([coordinate - 30.0, 20.0])
    boxes = torch.cat((corner, corner + sides), dim=1)
    boxes = torch.cat((boxes, anchors.boxes[torch.randint(len(anchors.boxes), (50,), generator=generator)]))
    count = torch.tensor([2, cells]).expand(len(boxes), 2)
    placed = Placement(Spans(boxes), Cells(count[:, 1], step, offset), Cells(count[:, 0], step, offset))
    ((width, height),) = grid.shapes[0].tolist()
    best = placed.exact((width, height), torch.arange(len(boxes)))
    assert torch.equal(best, pairwise_iou(boxes, anchors.boxes).amax(dim=1))


def test_a_count_worked_by_hand():
    """A box that is an anchor 16 px wide: one cell (8 px) to the side is IoU 8 / 24, four pixels are 12 / 20."""
    boxes = torch.tensor([[16.0, 16.0, 32.0, 32.0]])
    cells = Cells(torch.tensor([8]), 8, 0.0)
    placed, one = Placement(Spans(boxes), cells, cells), torch.tensor([0])
    counts = [int(placed.count_above((16.0, 16.0), threshold, one)) for threshold in (1.0, 0.34, 0.33, 0.14)]
    assert counts == [1, 1, 5, 9]  # diagonal neighbours: 64 / 448 = 0.1429


def test_taking_boxes_in_parts_changes_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    boxes = torch.rand(50, 2, generator=generator) * 90
    boxes = torch.cat((boxes, boxes + 5 + 40 * torch.rand(50, 2, generator=generator)), dim=1)
    cells = Cells(torch.full((50,), 20), 7, 0.3)
    found = []
    for part in (placement.PART, 3):
        monkeypatch.setattr(placement, "PART", part)
        placed = Placement(Spans(boxes), cells, cells)
        estimate = torch.empty(50)
        placed.estimate((20.1, 33.3), estimate)
        found.append((estimate, placed.exact((20.1, 33.3), torch.arange(50))))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_no_boxes():
    none = torch.zeros(0, 4)
    cells = Cells(torch.zeros(0, dtype=torch.int64), 8, 0.0)
    placed, nobody = Placement(Spans(none), cells, cells), torch.zeros(0, dtype=torch.int64)
    assert placed.exact((8.0, 8.0), nobody).shape == (0,)
    assert placed.count_above((8.0, 8.0), 0.5, nobody).shape == (0,)
