"""Coverage against brute force: every anchor of every image made, every IoU compared."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorlab.analysis import coverage as coverage_module
from anchorlab.analysis.coverage import cover, cover_many
from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import OBJECT, MaxIoUAssigner
from anchorlab.rpn.boxes import pairwise_iou

STRIDES = (5, 8, 16)


def truth_from(images: Sequence[tuple[tuple[int, int], Sequence[Sequence[float]]]], pad_to: int = 1) -> GroundTruth:
    """Ground truth of images given as ((height, width), boxes)."""
    sizes = torch.tensor([size for size, _ in images]).reshape(-1, 2)
    padded = -(-sizes // pad_to) * pad_to
    boxes = [box for _, found in images for box in found]
    count = torch.tensor([len(found) for _, found in images], dtype=torch.int64)
    return GroundTruth(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        image=torch.repeat_interleave(torch.arange(len(images)), count),
        sizes=sizes,
        padded=padded,
        grids=torch.stack([-(-padded // stride) for stride in STRIDES], dim=1),
    )


@st.composite
def truths(draw: st.DrawFn) -> GroundTruth:
    images = []
    for _ in range(draw(st.integers(1, 3))):
        height, width = draw(st.integers(20, 90)), draw(st.integers(20, 140))
        boxes = []
        for _ in range(draw(st.integers(0, 3))):
            left, top = draw(st.floats(0, width - 8, width=32)), draw(st.floats(0, height - 8, width=32))
            boxes.append([left, top, draw(st.integers(int(left) + 2, width)), draw(st.integers(int(top) + 2, height))])
        images.append(((height, width), boxes))
    return truth_from(images, draw(st.sampled_from([1, 32])))


@st.composite
def grids(draw: st.DrawFn) -> AnchorGrid:
    extent = st.one_of(st.floats(3, 90, width=32), st.integers(3, 90).map(float))
    return AnchorGrid(
        shapes=[draw(st.lists(st.tuples(extent, extent), min_size=1, max_size=3)) for _ in STRIDES],
        rounded=draw(st.booleans()),
        offset=draw(st.sampled_from([0.0, 0.5])),
        stride=draw(st.sampled_from(["declared", "inferred"])),
        strides=STRIDES,
    )


ASSIGNERS = [
    MaxIoUAssigner(),
    MaxIoUAssigner(foreground_iou=0.5, border=0.0),
    MaxIoUAssigner(low_quality=False, border=7.5),
    MaxIoUAssigner(low_quality_floor=0.4),
]


@given(truths(), grids(), st.sampled_from(ASSIGNERS))
@settings(max_examples=150)
def test_cover_equals_brute_force(truth, grid, assigner):
    found = cover(truth, grid, assigner)
    for g, (box, image) in enumerate(zip(truth.boxes, truth.image.tolist(), strict=True)):
        anchors = grid(
            [tuple(size) for size in truth.grids[image].tolist()], tuple(truth.padded[image].tolist()), "cpu"
        )
        height, width = truth.sizes[image].tolist()
        iou = pairwise_iou(box[None], anchors.boxes)[0]
        if assigner.border is not None:
            low, high = torch.tensor([-assigner.border] * 2), torch.tensor([width, height]) + assigner.border
            iou = iou * ((anchors.boxes[:, :2] >= low) & (anchors.boxes[:, 2:] <= high)).all(dim=1)
        assert found.best[g] == iou.max()
        parts = iou.split(anchors.num_per_level)
        level = next(number for number, part in enumerate(parts) if part.max() == iou.max())
        assert found.level[g] == level
        k = grid.num_anchors[level]
        assert parts[level].reshape(-1, k).amax(0)[found.shape[g]] == iou.max()
        alone = assigner(anchors, box[None], torch.tensor([False]), (height, width))
        positive, close = int((alone.label == OBJECT).sum()), 2e-4
        if iou.max() >= assigner.foreground_iou + close:
            few, many = ((iou >= assigner.foreground_iou + slack).sum() for slack in (close, -close))
            assert few <= found.positives[g] <= many
            assert few <= positive <= many
        elif iou.max() < assigner.foreground_iou - close:
            assert found.positives[g] == bool(positive)
            assert found.saved[g] == bool(positive)
    assert sum(int(counts.sum()) for counts in found.shape_positives) == found.positives.sum()


@given(truths(), st.lists(grids(), min_size=1, max_size=4), st.sampled_from(ASSIGNERS))
@settings(max_examples=60)
def test_many_configurations_at_once_equal_each_alone(truth, configurations, assigner):
    for figures, grid in zip(cover_many(truth, configurations, assigner), configurations, strict=True):
        alone = cover(truth, grid, assigner).metrics
        for name, value in figures.items():
            tolerance = 1e-4 if name == "mean_best_iou" else 1e-12
            assert math.isnan(value) if math.isnan(alone[name]) else value == pytest.approx(alone[name], abs=tolerance)


def test_configurations_in_parts_and_progress(monkeypatch):
    truth = truth_from([((64, 80), [[8, 8, 24, 24], [3, 9, 40, 33], [50, 2, 61, 60]])] * 4)
    grid = AnchorGrid([10, 20, 40], strides=STRIDES)
    whole = cover_many(truth, [grid], MaxIoUAssigner())
    monkeypatch.setattr(coverage_module, "PART", 5)
    seen = []
    parts = cover_many(truth, [grid], MaxIoUAssigner(), progress=lambda done, total: seen.append((done, total)))
    assert parts[0] == pytest.approx(whole[0])
    assert seen == [(5, 12), (10, 12), (12, 12)]


def test_figures_worked_by_hand():
    """Anchors of 16 x 16 every 8 pixels, and one large one a level that is never best."""
    grid = AnchorGrid(shapes=[[[300, 300]], [[16, 16]], [[400, 400]]], strides=STRIDES)
    exact, half, tiny = [16, 16, 32, 32], [16, 16, 32, 24], [20, 20, 21, 21]  # shifted by (-8, -8): centred on cells
    truth = truth_from([((64, 96), [exact, half]), ((64, 96), [tiny])])
    found = cover(truth, grid, MaxIoUAssigner(foreground_iou=0.5))
    assert found.best.tolist() == pytest.approx([1.0, 0.5, 1 / 256])
    assert found.level.tolist() == [1, 1, 1]
    assert found.positives.tolist() == [1, 2, 1]  # the second: anchors above and below, at exactly 0.5
    assert found.saved.tolist() == [False, False, True]
    assert [int(counts) for counts in found.shape_positives] == [0, 4, 0]
    assert found.metrics == pytest.approx(
        {
            "coverage": 2 / 3,
            "possible_recall_50": 2 / 3,
            "possible_recall_70": 1 / 3,
            "mean_best_iou": (1.5 + 1 / 256) / 3,
            "saved_by_low_quality": 1 / 3,
            "untouched": 0.0,
            "positives_per_box": 4 / 3,
            "positives_per_image": 2.0,
        }
    )
    assert found.worst(2).tolist() == [2, 1]


def test_groups_hold_every_box_once():
    boxes = [[0, 0, 10, 10], [0, 0, 16, 16], [0, 0, 10, 40], [0, 0, 40, 10], [5, 5, 69, 37]]
    found = cover(truth_from([((80, 90), boxes)]), AnchorGrid([10, 20, 40], strides=STRIDES), MaxIoUAssigner())
    assert [(group.name, group.boxes) for group in found.by_size()] == [
        ("below 16 px", 1),
        ("16 to 32 px", 3),
        ("32 to 64 px", 1),
    ]
    assert [(group.name, group.boxes) for group in found.by_ratio()] == [
        ("0.25 to 0.5", 1),
        ("0.5 to 0.71", 1),
        ("0.71 to 1.4", 2),
        ("from 4", 1),
    ]
    assert sum(group.boxes for group in found.by_level()) == 5
    mean = sum(group.boxes * group.mean_best_iou for group in found.by_level()) / 5
    assert mean == pytest.approx(found.metrics["mean_best_iou"])


def test_no_boxes():
    truth = truth_from([((40, 50), [])])
    found = cover(truth, AnchorGrid([10, 20, 40], strides=STRIDES), MaxIoUAssigner())
    assert math.isnan(found.metrics["coverage"])
    assert found.metrics["positives_per_image"] == 0
    assert found.by_size() == []
    many = cover_many(truth, [found.anchors], MaxIoUAssigner())
    assert math.isnan(many[0]["coverage"])


def test_levels_that_do_not_match_are_refused():
    truth = truth_from([((40, 50), [[0, 0, 9, 9]])])
    with pytest.raises(ValueError, match="2 levels and the ground truth has grids of 3"):
        cover(truth, AnchorGrid([10, 20], strides=[8, 16]), MaxIoUAssigner())
