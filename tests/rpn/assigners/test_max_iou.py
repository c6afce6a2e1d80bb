"""The max-IoU assigner against a reference that compares every anchor with every box, and against torchvision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.rpn import RegionProposalNetwork

from anchorlab.rpn.anchors import AnchorGrid, Anchors
from anchorlab.rpn.assigners import max_iou as assigners
from anchorlab.rpn.assigners.max_iou import BACKGROUND, IGNORE, OBJECT, Assignment, MaxIoUAssigner
from anchorlab.rpn.boxes import pairwise_iof, pairwise_iou
from tests.rpn import strategies


def dense(rule: MaxIoUAssigner, anchors: Anchors, boxes: Tensor, ignore: Tensor, size: tuple[int, int]) -> Assignment:
    """The assigner's contract, from the whole (A, G) matrix."""
    iou = pairwise_iou(anchors.boxes, boxes)
    label = torch.full((len(iou),), BACKGROUND, dtype=torch.int8)
    box_index = torch.zeros(len(iou), dtype=torch.int64)
    border = torch.inf if rule.border is None else rule.border
    edges = torch.tensor([-border, -border, size[1] + border, size[0] + border])
    kept = ((anchors.boxes[:, :2] >= edges[:2]) & (anchors.boxes[:, 2:] <= edges[2:])).all(dim=1)
    if rule.ignore_iof is not None:
        label[(pairwise_iof(anchors.boxes, boxes[ignore]) >= rule.ignore_iof).any(dim=1)] = IGNORE
    if not ignore.all():
        best, box_index = iou.masked_fill(ignore, -1).max(dim=1)
        label[best >= rule.background_iou] = IGNORE
        label[best >= rule.foreground_iou] = OBJECT
        floor = -1.0 if rule.low_quality_floor is None else rule.low_quality_floor
        for column in iou[:, ~ignore].T:
            peak = column[kept].max() if kept.any() else -1.0
            if rule.low_quality and peak > floor:
                label[column == peak] = OBJECT
    label[~kept] = IGNORE
    return Assignment(label, box_index * (label == OBJECT))


@st.composite
def images(draw: st.DrawFn) -> tuple[Anchors, Tensor, Tensor, tuple[int, int]]:
    anchors, size = draw(strategies.anchors())
    boxes = strategies.boxes(draw, anchors, size)
    ignore = draw(st.lists(st.sampled_from([False, False, True]), min_size=len(boxes), max_size=len(boxes)))
    return anchors, boxes, torch.tensor(ignore, dtype=torch.bool), size


@st.composite
def rules(draw: st.DrawFn) -> MaxIoUAssigner:
    foreground, background = draw(st.sampled_from([(0.7, 0.3), (0.5, 0.5), (0.5, 0.05), (1.0, 0.4)]))
    return MaxIoUAssigner(
        foreground_iou=foreground,
        background_iou=background,
        low_quality=draw(st.booleans()),
        low_quality_floor=draw(st.sampled_from([None, 0.0, 0.2])),
        ignore_iof=draw(st.sampled_from([None, 0.5, 1.0])),
        border=draw(st.sampled_from([None, 0.0, 5.0])),
    )


@given(rules(), images())
@settings(max_examples=300)
def test_equals_the_dense_reference(rule, image):
    found, expected = rule(*image), dense(rule, *image)
    assert torch.equal(found.label, expected.label)
    assert torch.equal(found.box_index, expected.box_index)
    assert (found.label.dtype, found.box_index.dtype) == (torch.int8, torch.int64)


def torchvision_assignment(anchors: Tensor, boxes: Tensor, thresholds=(0.7, 0.3)) -> tuple[Tensor, Tensor]:
    """Labels and matched boxes by torchvision's RegionProposalNetwork itself."""
    network = RegionProposalNetwork(None, None, *thresholds, 256, 0.5, {}, {}, 0.7)  # pyright: ignore
    labels, matched = network.assign_targets_to_anchors([anchors], [{"boxes": boxes}])
    return labels[0], matched[0]


@given(images(), st.sampled_from([(0.7, 0.3), (0.5, 0.5)]))
@settings(max_examples=200)
def test_equals_torchvision_without_a_floor(image, thresholds):
    anchors, boxes, _, size = image
    rule = MaxIoUAssigner(*thresholds, low_quality_floor=None)
    label, box_index = rule(anchors, boxes, torch.zeros(len(boxes), dtype=torch.bool), size)
    expected_label, expected_boxes = torchvision_assignment(anchors.boxes, boxes, thresholds)
    assert torch.equal(label.float(), expected_label)
    objects = label == OBJECT
    if len(boxes):
        assert torch.equal(boxes[box_index[objects]], expected_boxes[objects])


# Hand cases. One row of 8 x 8 anchors, side by side: anchor i covers x from 8 i to 8 i + 8.

ROW = AnchorGrid(shapes=[[[8, 8]]], offset=0.5, strides=[8])([(1, 4)], (8, 32), "cpu")


def assign(rule: MaxIoUAssigner, boxes: list[list[float]], ignore: list[bool] | None = None) -> Assignment:
    flags = torch.tensor(ignore or [False] * len(boxes), dtype=torch.bool)
    return rule(ROW, torch.tensor(boxes).reshape(-1, 4), flags, (8, 32))


def test_thresholds_are_met_by_equality():
    # IoU 0.5 with anchor 0 and 0.25 with anchor 1, both exact in float32.
    rule = MaxIoUAssigner(foreground_iou=0.5, background_iou=0.25, low_quality=False)
    boxes = [[0.0, 0.0, 4.0, 8.0], [14.0, 0.0, 16.0, 8.0]]
    assert assign(rule, boxes).label.tolist() == [OBJECT, IGNORE, BACKGROUND, BACKGROUND]


def test_all_anchors_tied_for_best_are_objects():
    box = [[4.0, 0.0, 12.0, 8.0]]  # IoU 1/3 with anchors 0 and 1
    assert assign(MaxIoUAssigner(), box).label.tolist() == [OBJECT, OBJECT, BACKGROUND, BACKGROUND]
    assert assign(MaxIoUAssigner(low_quality=False), box).label.tolist() == [
        IGNORE,
        IGNORE,
        BACKGROUND,
        BACKGROUND,
    ]


def test_low_quality_anchor_regresses_its_own_best_box():
    # Both boxes are best matched by anchor 0, far below the background threshold; box 1 overlaps it more.
    boxes = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 2.0, 2.0]]
    label, box_index = assign(MaxIoUAssigner(), boxes)
    assert label.tolist() == [OBJECT, BACKGROUND, BACKGROUND, BACKGROUND]
    assert box_index.tolist() == [1, 0, 0, 0]


def test_first_of_equal_boxes_is_taken():
    boxes = [[30.0, 0.0, 32.0, 8.0], [8.0, 0.0, 16.0, 8.0], [8.0, 0.0, 16.0, 8.0]]
    assert assign(MaxIoUAssigner(), boxes).box_index.tolist() == [0, 1, 0, 0]


def test_floor_is_exclusive():
    box = [[0.0, 0.0, 2.0, 8.0]]  # IoU 0.25
    assert assign(MaxIoUAssigner(low_quality_floor=0.25), box).label.tolist() == [BACKGROUND] * 4
    assert assign(MaxIoUAssigner(low_quality_floor=0.24), box).label.tolist() == [OBJECT] + [BACKGROUND] * 3


def test_box_that_no_anchor_touches():
    boxes = [[0.0, 20.0, 8.0, 28.0], [8.0, 0.0, 16.0, 8.0]]
    assert assign(MaxIoUAssigner(), boxes).label.tolist() == [BACKGROUND, OBJECT, BACKGROUND, BACKGROUND]
    label, box_index = assign(MaxIoUAssigner(low_quality_floor=None), boxes)
    assert label.tolist() == [OBJECT] * 4  # torchvision's behaviour
    assert box_index.tolist() == [0, 1, 0, 0]


def test_ignored_regions():
    boxes = [[0.0, 0.0, 12.0, 8.0], [16.0, 0.0, 24.0, 8.0]]  # all of anchor 0, half of anchor 1; anchor 2
    rule, flags = MaxIoUAssigner(), [True, False]
    label, box_index = assign(rule, boxes, flags)
    assert label.tolist() == [IGNORE, IGNORE, OBJECT, BACKGROUND]
    assert box_index.tolist() == [0, 0, 1, 0]  # the index counts ignored boxes
    assert assign(MaxIoUAssigner(ignore_iof=0.6), boxes, flags).label.tolist() == [IGNORE, 0, OBJECT, 0]
    assert assign(MaxIoUAssigner(ignore_iof=None), boxes, flags).label.tolist() == [0, 0, OBJECT, 0]


def test_object_inside_an_ignored_region_stays_object():
    boxes = [[0.0, 0.0, 32.0, 8.0], [16.0, 0.0, 24.0, 8.0]]
    assert assign(MaxIoUAssigner(), boxes, [True, False]).label.tolist() == [IGNORE, IGNORE, OBJECT, IGNORE]


def test_border_removes_anchors_before_matching():
    anchors = AnchorGrid(shapes=[[[8, 8]]], strides=[8])([(2, 3)], (16, 24), "cpu")  # row 0 and column 0 cross it
    box = torch.tensor([[-4.0, -4.0, 4.0, 4.0]])  # exactly anchor 0
    flags = torch.zeros(1, dtype=torch.bool)
    assert MaxIoUAssigner()(anchors, box, flags, (16, 24)).label.tolist() == [OBJECT] + [BACKGROUND] * 5
    label = MaxIoUAssigner(border=0)(anchors, box, flags, (16, 24)).label
    # The box touches anchor 4 in a corner only: no anchor is left for it.
    assert label.tolist() == [IGNORE, IGNORE, IGNORE, IGNORE, BACKGROUND, BACKGROUND]
    assert MaxIoUAssigner(border=4)(anchors, box, flags, (16, 24)).label[0] == OBJECT
    # The image itself counts, not its padding: anchor 5 reaches to 20.
    assert MaxIoUAssigner(border=0)(anchors, box, flags, (16, 19)).label[5] == IGNORE


@pytest.mark.parametrize("ignore", [[], [True], [True, True]])
def test_images_without_objects(ignore):
    label, box_index = assign(MaxIoUAssigner(), [[0.0, 0.0, 8.0, 8.0]] * len(ignore), ignore)
    assert label.tolist() == [IGNORE if ignore else BACKGROUND, BACKGROUND, BACKGROUND, BACKGROUND]
    assert box_index.tolist() == [0, 0, 0, 0]


def test_comparing_in_parts_changes_nothing(monkeypatch):
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 2.0, 2.0], [9.0, 0.0, 10.0, 1.0]])
    whole = assign(MaxIoUAssigner(), boxes.tolist())
    monkeypatch.setattr(assigners, "MAX_IOUS", 1)
    assert torch.equal(assign(MaxIoUAssigner(), boxes.tolist()).box_index, whole.box_index)


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any result of an operation has in memory."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.elements = max(self.elements, size)
        return result


def test_no_array_of_anchors_times_boxes():
    anchors = AnchorGrid([32, 64, 128], k=9, strides=[8, 16, 32])([(64, 96), (32, 48), (16, 24)], (512, 768), "cpu")
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(100, 2, generator=generator) * torch.tensor([700.0, 450.0])
    boxes = torch.cat((corner, corner + 10 + 150 * torch.rand(100, 2, generator=generator)), dim=1)
    with LargestTensor() as largest:
        MaxIoUAssigner(border=0)(anchors, boxes, torch.arange(100) % 10 == 0, (512, 768))
    assert largest.elements < len(anchors.boxes) * len(boxes) / 20


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"foreground_iou": 0}, "foreground_iou=0"),
        ({"foreground_iou": 1.5}, "foreground_iou=1.5"),
        ({"background_iou": 0.8}, "background_iou=0.8"),
        ({"background_iou": -0.1}, "background_iou=-0.1"),
        ({"low_quality_floor": 1.1}, "low_quality_floor=1.1"),
        ({"low_quality_floor": float("nan")}, "low_quality_floor=nan"),
        ({"ignore_iof": 0}, "ignore_iof=0"),
        ({"border": -1}, "border=-1"),
    ],
)
def test_settings_out_of_range(settings, key):
    with pytest.raises(ValueError, match=r"must be|lower the first") as error:
        MaxIoUAssigner(**settings)
    assert str(error.value).startswith(key)
    assert str(error.value).count(". ") == 0
