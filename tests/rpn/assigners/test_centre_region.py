"""The centre-region assigner: cells by hand, and against a look at every location."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anchorlab.rpn.anchors import AnchorGrid, Anchors
from anchorlab.rpn.assigners.centre_region import CentreRegionAssigner
from anchorlab.rpn.assigners.max_iou import BACKGROUND, IGNORE, OBJECT
from tests.rpn import strategies


def grid() -> Anchors:
    """Square anchors of 32 on 6 x 8 cells of stride 8 and of 64 on 3 x 4 of stride 16, centred in them."""
    return AnchorGrid(shapes=[[[32, 32]], [[64, 64]]], offset=0.5, strides=(8, 16))([(6, 8), (3, 4)], (48, 64), "cpu")


def assign(*boxes: list[float], ignore: list[bool] | None = None, **rule: float) -> tuple[Tensor, Tensor, Tensor]:
    """Labels of both levels as maps, and the box index of the first."""
    flags = torch.tensor(ignore or [False] * len(boxes), dtype=torch.bool)
    found = CentreRegionAssigner(**rule)(grid(), torch.tensor(boxes).view(-1, 4), flags, (48, 64))
    fine, coarse = found.label.split((48, 12))
    return fine.view(6, 8), coarse.view(3, 4), found.box_index[:48].view(6, 8)


def cells(label: Tensor, value: int) -> list[list[int]]:
    return (label == value).nonzero().tolist()


def test_middle_and_its_surroundings_by_hand():
    """A box of 40 x 24 about (28, 20), of the fine level: middle 8 x 4.8, region that does not count 20 x 12."""
    fine, coarse, index = assign([8.0, 8.0, 48.0, 32.0])
    assert cells(fine, OBJECT) == [[2, 3]]  # the centre of row 2, column 3 is (28, 20)
    # Columns from 18 to 38 (centres 20, 28, 36), rows from 14 to 26 (centre 20).
    assert cells(fine, IGNORE) == [[2, 2], [2, 4]]
    assert cells(coarse, IGNORE) == [[1, 1]]  # its neighbour: centre (24, 24)
    assert cells(coarse, OBJECT) == []
    assert index[2, 3] == 0


def test_centres_on_the_edge_belong_to_the_middle():
    fine, _, _ = assign([8.0, 0.0, 48.0, 40.0], centre=0.4)  # 16 x 16 about (28, 20): 20 to 36, 12 to 28
    assert cells(fine, OBJECT) == [[row, column] for row in (1, 2, 3) for column in (2, 3, 4)]


def test_box_whose_middle_holds_no_location_has_the_nearest():
    fine, coarse, _ = assign([9.0, 9.0, 13.0, 13.0])
    assert cells(fine, OBJECT) == [[1, 1]]
    assert cells(coarse, OBJECT) == []
    assert cells(assign([62.0, 46.0, 64.0, 48.0])[0], OBJECT) == [[5, 7]]


def test_large_box_belongs_to_the_coarse_level():
    fine, coarse, _ = assign([0.0, 0.0, 64.0, 48.0])  # 55 is nearer to 64 than to 32
    assert cells(fine, OBJECT) == []
    assert cells(coarse, OBJECT) == [[1, 2]]  # (40, 24) is as near to (32, 24) as (24, 24)
    assert len(cells(fine, IGNORE)) > 0


def test_smallest_of_overlapping_boxes_and_first_of_equals_take_the_location():
    large, small = [4.0, 4.0, 52.0, 36.0], [20.0, 12.0, 36.0, 28.0]  # both about (28, 20)
    assert assign(large, small)[2][2, 3] == 1
    assert assign(small, large)[2][2, 3] == 0
    fine, _, index = assign(small, small)
    assert (index[fine == OBJECT] == 0).all()
    assert cells(assign(large, small)[0], IGNORE) != []


def test_ignored_boxes_are_left_out_and_indices_count_them():
    fine, _, index = assign([0.0, 0.0, 64.0, 48.0], [12.0, 4.0, 44.0, 36.0], ignore=[True, False], ignore_iof=0.9)
    assert index[fine == OBJECT].unique().tolist() == [1]
    assert (fine != BACKGROUND).sum() > (fine == OBJECT).sum()
    assert cells(assign()[0], BACKGROUND) == [[row, column] for row in range(6) for column in range(8)]


@st.composite
def images(draw: st.DrawFn) -> tuple[Anchors, Tensor, tuple[int, int]]:
    anchors, size = draw(strategies.anchors())
    return anchors, strategies.boxes(draw, anchors, size, max_boxes=4), size


@given(images())
@settings(max_examples=60)
def test_every_box_has_a_location_and_objects_are_central(image):
    anchors, boxes, size = image
    found = CentreRegionAssigner()(anchors, boxes, torch.zeros(len(boxes), dtype=torch.bool), size)
    objects = (found.label == OBJECT).nonzero()[:, 0]
    assert (len(objects) > 0) == (len(boxes) > 0)
    assert (found.box_index[found.label != OBJECT] == 0).all()
    if len(boxes):
        smallest = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).argmin()
        assert (found.box_index[objects] == smallest).any()
    centres = (anchors.boxes[:, :2] + anchors.boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2])[found.box_index[objects]] / 2 if len(boxes) else torch.zeros(0, 2)
    middle = ((boxes[:, :2] + boxes[:, 2:]) / 2)[found.box_index[objects]] if len(boxes) else torch.zeros(0, 2)
    away = (centres[objects] - middle).abs()
    start = 0
    for total in anchors.num_per_level:  # along each axis in the middle, or else the nearest to it
        here = (objects >= start) & (objects < start + total)
        nearest = (centres[start : start + total, None] - middle[here]).abs().amin(dim=0)
        assert (away[here] <= torch.maximum(0.2 * half[here], nearest) + 0.01).all()
        start += total


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"centre": 0.0}, "centre=0.0"),
        ({"centre": 0.6, "ignored": 0.5}, "ignored=0.5"),
        ({"ignore_iof": 2}, "ignore_iof=2"),
    ],
)
def test_settings_out_of_range(settings, key):
    with pytest.raises(ValueError, match=f"^{key} is "):
        CentreRegionAssigner(**settings)
