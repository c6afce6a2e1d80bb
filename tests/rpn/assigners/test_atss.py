"""ATSS against algorithm 1 of its paper, written out over all anchors and boxes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anchorlab.rpn.anchors import AnchorGrid, Anchors
from anchorlab.rpn.assigners.atss import ATSSAssigner
from anchorlab.rpn.assigners.max_iou import BACKGROUND, IGNORE, OBJECT, Assignment
from anchorlab.rpn.boxes import pairwise_iof, pairwise_iou
from tests.rpn import strategies


def written_out(anchors: Anchors, boxes: Tensor, ignore: Tensor, count: int, iof: float) -> Assignment:
    label = torch.full((len(anchors.boxes),), BACKGROUND, dtype=torch.int8)
    label[(pairwise_iof(anchors.boxes, boxes[ignore]) >= iof).any(dim=1)] = IGNORE
    index, best = torch.zeros(len(label), dtype=torch.int64), torch.zeros(len(label))
    centres = (anchors.boxes[:, :2].double() + anchors.boxes[:, 2:].double()) / 2
    for g in (~ignore).nonzero()[:, 0].tolist():
        away = ((centres - (boxes[g, :2].double() + boxes[g, 2:].double()) / 2) ** 2).flip(1).sum(1)
        candidates, start = [], 0
        for level, total in zip(anchors.levels, anchors.num_per_level, strict=True):
            for j in range(shapes := level.x1.shape[1]):
                number = torch.arange(start + j, start + total, shapes)
                candidates += number[away[number].sort(stable=True).indices[:count]].tolist()
            start += total
        iou = pairwise_iou(anchors.boxes[candidates], boxes[g : g + 1])[:, 0].nan_to_num(0)
        threshold = iou.double().mean() + (iou.double().std() if len(iou) > 1 else 0)
        for anchor, value in zip(candidates, iou, strict=True):
            x, y = (anchors.boxes[anchor, :2] + anchors.boxes[anchor, 2:]) / 2
            inside = boxes[g, 0] < x < boxes[g, 2] and boxes[g, 1] < y < boxes[g, 3]
            if inside and value.double() >= threshold and (label[anchor] != OBJECT or value > best[anchor]):
                label[anchor], index[anchor], best[anchor] = OBJECT, g, value
    return Assignment(label, index)


@st.composite
def images(draw: st.DrawFn) -> tuple[Anchors, Tensor, Tensor, tuple[int, int]]:
    anchors, size = draw(strategies.anchors())
    boxes = strategies.boxes(draw, anchors, size, max_boxes=4)
    ignore = draw(st.lists(st.sampled_from([False, False, True]), min_size=len(boxes), max_size=len(boxes)))
    return anchors, boxes, torch.tensor(ignore, dtype=torch.bool), size


@given(images(), st.sampled_from([1, 3, 9]))
@settings(max_examples=60)
def test_is_the_paper_s_algorithm(image, count):
    found = ATSSAssigner(candidates=count)(*image)
    anchors, boxes, ignore, _ = image
    expected = written_out(anchors, boxes, ignore, count, 0.5)
    assert torch.equal(found.label, expected.label)
    assert torch.equal(found.box_index, expected.box_index)
    assert (found.label.dtype, found.box_index.dtype) == (torch.int8, torch.int64)


def grid(*sizes: float) -> Anchors:
    """Square anchors on 6 x 8 cells of stride 8 and 3 x 4 of stride 16, centred in them."""
    levels = [(6, 8), (3, 4)][: len(sizes)]
    return AnchorGrid(shapes=[[[s, s]] for s in sizes], offset=0.5, strides=(8, 16)[: len(sizes)])(
        levels, (48, 64), "cpu"
    )


def objects(rule: ATSSAssigner, anchors: Anchors, boxes: Tensor) -> list[int]:
    found = rule(anchors, boxes, torch.zeros(len(boxes), dtype=torch.bool), (48, 64))
    return (found.label == OBJECT).nonzero()[:, 0].tolist()


def test_threshold_is_mean_and_deviation_of_the_candidates():
    """IoU 1, and three times 1 / 3 (shifted by half a side): mean 0.5, deviation 1 / 3, so that one reaches 0.83."""
    anchors = grid(16.0)
    box = anchors.boxes[9][None]  # row 1, column 1
    assert objects(ATSSAssigner(candidates=4), anchors, box) == [9]


def test_single_candidate_is_its_own_threshold():
    anchors = grid(16.0)
    half = anchors.boxes[9] - torch.tensor([0.0, 0.0, 0.0, 7.0])
    assert objects(ATSSAssigner(candidates=1), anchors, half[None]) == [9]
    # Of two levels neither reaches the mean of 1 and 0.39 with their deviation.
    assert objects(ATSSAssigner(candidates=1), grid(16.0, 16.0), anchors.boxes[9][None]) == []


def test_centre_on_the_side_of_a_box_is_not_in_it():
    anchors = grid(16.0)
    box = torch.tensor([[4.0, 4.0, 12.0, 20.0]])  # centres at 4 and 12 lie on its sides
    assert objects(ATSSAssigner(candidates=1), anchors, box) == []
    wider = torch.tensor([[4.0, 4.0, 12.5, 20.0]])
    assert objects(ATSSAssigner(candidates=1), anchors, wider) == [9]  # row 1, column 1


def test_anchor_of_two_boxes_takes_the_better_and_the_first_of_equals():
    anchors = grid(16.0)
    exact = anchors.boxes[18]
    near = exact + torch.tensor([0.0, 0.0, 4.0, 0.0])
    for boxes, wanted in (((near, exact), 1), ((exact, near), 0), ((exact, exact), 0)):
        found = ATSSAssigner()(anchors, torch.stack(boxes), torch.zeros(2, dtype=torch.bool), (48, 64))
        assert found.label[18] == OBJECT
        assert found.box_index[18] == wanted


def test_no_boxes():
    found = ATSSAssigner()(grid(16.0), torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool), (48, 64))
    assert (found.label == BACKGROUND).all()
    assert not found.box_index.any()


@pytest.mark.parametrize(
    ("settings", "key"), [({"candidates": 0}, "candidates=0"), ({"ignore_iof": 0}, "ignore_iof=0")]
)
def test_settings_out_of_range(settings, key):
    with pytest.raises(ValueError, match=f"^{key} is "):
        ATSSAssigner(**settings)
