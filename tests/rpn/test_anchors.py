"""Anchors against worked-out values and torchvision's generator; settings that contradict each other."""

import copy
import inspect
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from anchorlab.rpn.anchors import MAX_CACHED_SIZES, AnchorGrid, Anchors

FPN = [4, 8, 16, 32, 64]
FPN_SIZES = [32, 64, 128, 256, 512]


def features_of(size: tuple[int, int], strides: list[int]) -> list[tuple[int, int]]:
    return [(-(-size[0] // s), -(-size[1] // s)) for s in strides]


def torchvision_boxes(sizes, ratios, features, image_size) -> torch.Tensor:
    generator = AnchorGenerator(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))
    maps = [torch.zeros(1, 1, *size) for size in features]
    return generator(ImageList(torch.zeros(1, 3, *image_size), [image_size]), maps)[0]


# Parity


@pytest.mark.parametrize("size", [(64, 96), (100, 177), (61, 40)])
@pytest.mark.parametrize("strides", [[16], FPN])
def test_torchvision_preset_equals_torchvision(size, strides):
    sizes = [[32, 64, 128]] if len(strides) == 1 else [[s] for s in FPN_SIZES]
    features = features_of(size, strides)
    grid = AnchorGrid(sizes, rounded=True, order="ratio", stride="inferred", strides=strides)
    anchors = grid(features, size, "cpu")
    expected = torchvision_boxes(sizes, (0.5, 1.0, 2.0), features, size)
    assert torch.equal(anchors.boxes, expected)
    assert sum(anchors.num_per_level) == len(expected)


@given(
    sizes=st.lists(st.floats(8, 600), min_size=1, max_size=3),
    ratios=st.lists(st.floats(0.2, 5), min_size=1, max_size=3),
)
@settings(max_examples=60)
def test_rounding_goes_torchvisions_way(sizes, ratios):
    grid = AnchorGrid(sizes, ratios, rounded=True, order="ratio", stride="inferred", strides=[16])
    expected = torchvision_boxes([sizes], ratios, [(2, 3)], (32, 48))
    assert torch.equal(grid([(2, 3)], (32, 48), "cpu").boxes, expected)


# Worked-out values


def test_detectron2_cell_anchors():
    # The example in the docstring of Detectron2's DefaultAnchorGenerator.generate_cell_anchors, at (row 1, column 2).
    grid = AnchorGrid([[32, 64]], [0.5, 1, 2], strides=[16])
    expected = torch.tensor(
        [
            [-22.6274, -11.3137, 22.6274, 11.3137],
            [-16.0000, -16.0000, 16.0000, 16.0000],
            [-11.3137, -22.6274, 11.3137, 22.6274],
            [-45.2548, -22.6274, 45.2548, 22.6274],
            [-32.0000, -32.0000, 32.0000, 32.0000],
            [-22.6274, -45.2548, 22.6274, 45.2548],
        ]
    )
    boxes = grid([(2, 3)], (32, 48), "cpu").boxes.reshape(2, 3, 6, 4)
    torch.testing.assert_close(boxes[0, 0], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(boxes[1, 2], expected + torch.tensor([32.0, 16.0, 32.0, 16.0]), rtol=0, atol=1e-4)


def test_paper_has_nine_anchors_of_three_areas():
    grid = AnchorGrid([128, 256, 512], [0.5, 1.0, 2.0], strides=[16])
    assert grid.num_anchors == (9,)
    width, height = grid.shapes[0].unbind(1)
    areas = torch.tensor([128.0**2, 256.0**2, 512.0**2]).repeat_interleave(3)
    torch.testing.assert_close(width * height, areas)
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1.0, 2.0]).repeat(3))


def test_order_within_a_cell():
    by_size = AnchorGrid([[32, 64]], [1, 4], strides=[16]).shapes[0]
    by_ratio = AnchorGrid([[32, 64]], [1, 4], order="ratio", strides=[16]).shapes[0]
    assert by_size.tolist() == [[32, 32], [16, 64], [64, 64], [32, 128]]
    assert by_ratio.tolist() == [[32, 32], [64, 64], [16, 64], [32, 128]]


def test_flat_order_is_level_row_column_anchor():
    anchors = AnchorGrid([8, 16], [1, 4], offset=0.5, strides=[4, 10])([(3, 5), (2, 1)], (12, 20), "cpu")
    assert anchors.num_per_level == (30, 4)
    centres = (anchors.boxes[:, :2] + anchors.boxes[:, 2:]) / 2
    first = centres[:30].reshape(3, 5, 2, 2)
    assert first[2, 4].tolist() == [[18.0, 10.0], [18.0, 10.0]]
    assert centres[30:].tolist() == [[5.0, 5.0], [5.0, 5.0], [5.0, 15.0], [5.0, 15.0]]


@pytest.mark.parametrize("rounded", [False, True])
def test_rows_and_columns_are_the_boxes(rounded):
    grid = AnchorGrid([11.3, 30.7], rounded=rounded, offset=0.3, strides=[8, 16])
    anchors = grid([(9, 14), (5, 7)], (70, 111), "cpu")
    per_level = anchors.boxes.split(anchors.num_per_level)
    for boxes, level, (rows, columns) in zip(per_level, anchors.levels, [(9, 14), (5, 7)], strict=True):
        x1, y1, x2, y2 = boxes.reshape(rows, columns, 3, 4).unbind(-1)
        for row, column, j in [(0, 0, 0), (rows - 1, 2, 1), (3, columns - 1, 2)]:
            assert x1[row, column, j] == level.x1[column, j]
            assert x2[row, column, j] == level.x2[column, j]
            assert y1[row, column, j] == level.y1[row, j]
            assert y2[row, column, j] == level.y2[row, j]


def test_declared_strides_are_not_bent_by_padding():
    size = (800, 1333)
    features = features_of(size, FPN)
    declared = AnchorGrid(FPN_SIZES, strides=FPN)(features, size, "cpu").levels[-1]
    inferred = AnchorGrid(FPN_SIZES, stride="inferred", strides=FPN)(features, size, "cpu").levels[-1]
    assert (declared.x1[1] - declared.x1[0]).tolist() == [64.0] * 3
    assert (inferred.y1[1] - inferred.y1[0]).tolist() == [61.0] * 3  # 800 // 13, what torchvision does


def test_explicit_shapes():
    grid = AnchorGrid(shapes=[[[10, 20]], [[30, 15], [8, 8]]], strides=[8, 16])
    assert grid.num_anchors == (1, 2)
    assert [shape.tolist() for shape in grid.shapes] == [[[10, 20]], [[30, 15], [8, 8]]]
    assert AnchorGrid(shapes=[[10, 20], [30, 15]], k=2, strides=[8]).shapes[0].tolist() == [
        [10, 20],
        [30, 15],
    ]


# Settings


def test_scale_is_in_strides_on_every_level():
    shapes = AnchorGrid(scale=8, ratios=[1], strides=FPN).shapes
    assert [shape.tolist() for shape in shapes] == [[[8.0 * s, 8.0 * s]] for s in FPN]


def test_k_sets_scales_per_octave_where_a_level_has_one_size():
    from_k = AnchorGrid(FPN_SIZES, k=9, strides=FPN)
    from_octaves = AnchorGrid(FPN_SIZES, scales_per_octave=3, strides=FPN)
    assert from_k.num_anchors == (9,) * 5
    assert all(torch.equal(a, b) for a, b in zip(from_k.shapes, from_octaves.shapes, strict=True))
    sizes = from_k.shapes[0].prod(dim=1).sqrt()[::3]
    torch.testing.assert_close(sizes, 32 * 2 ** torch.tensor([0, 1 / 3, 2 / 3]))
    assert AnchorGrid(scale=8, k=6, strides=[16]).num_anchors == (6,)


def test_k_is_only_checked_where_sizes_decide():
    assert AnchorGrid([128, 256, 512], k=9, strides=[16]).num_anchors == (9,)
    assert AnchorGrid([[32, 40], [64, 80]], k=6, strides=[8, 16]).num_anchors == (6, 6)


def test_k_may_differ_per_level():
    grid = AnchorGrid([[32], [64, 128]], [[1], [0.5, 1, 2]], strides=[8, 16])
    assert grid.num_anchors == (1, 6)
    assert grid([(4, 6), (2, 3)], (32, 48), "cpu").num_per_level == (24, 36)
    assert grid.axes()["k"] == 6


def test_axes_are_plain_numbers():
    axes = AnchorGrid(FPN_SIZES, rounded=True, strides=FPN).axes()
    assert axes == {"k": 3, "smallest_size": 32.0, "largest_size": 512.0, "ratio_span": 4.0}
    assert all(type(value) in (int, float) for value in axes.values())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sizes": FPN_SIZES, "k": 7}, ["k=7", "3 of ratios=[0.5, 1.0, 2.0]"]),
        ({"sizes": FPN_SIZES, "k": 0}, ["k=0", "at least 1"]),
        ({"sizes": [8, 16], "k": 7, "strides": [8]}, ["k=7", "6 anchors per location"]),
        ({"sizes": FPN_SIZES, "k": 9, "scales_per_octave": 2}, ["k=9", "6 anchors per location"]),
        ({"shapes": [[8, 8]], "k": 2, "strides": [8]}, ["k=2", "shapes"]),
        ({"sizes": [32, 64, 128]}, ["sizes=[32.0, 64.0, 128.0]", "3 sizes", "5 levels"]),
        ({"sizes": [[32], [64]]}, ["sizes", "2 lists", "5 levels"]),
        ({"sizes": FPN_SIZES, "ratios": [[1], [2]]}, ["ratios", "2 lists", "5 levels"]),
        ({"sizes": FPN_SIZES, "scale": 8}, ["sizes", "scale=8"]),
        ({}, ["sizes", "scale", "shapes"]),
        ({"sizes": [32, 64, 0, 1, 1]}, ["sizes", "0"]),
        ({"sizes": [32, 64, -1, 1, 1]}, ["sizes", "-1"]),
        ({"sizes": [32, 64, float("nan"), 1, 1]}, ["sizes", "nan"]),
        ({"sizes": FPN_SIZES, "ratios": [1, float("inf")]}, ["ratios", "inf"]),
        ({"sizes": FPN_SIZES, "ratios": ["wide"]}, ["ratios", "wide"]),
        ({"sizes": FPN_SIZES, "ratios": []}, ["ratios=[]"]),
        ({"sizes": []}, ["sizes=[]"]),
        ({"sizes": [[32], [], [1], [1], [1]]}, ["sizes=[[32],[]"]),
        ({"sizes": "32"}, ["sizes=32"]),
        ({"scale": float("nan")}, ["scale", "nan"]),
        ({"scale": 8, "scales_per_octave": 0}, ["scales_per_octave=0"]),
        (
            {"sizes": [4], "ratios": [0.05], "rounded": True, "strides": [8]},
            ["rounded", "17.9 x 0.894"],
        ),
        ({"sizes": FPN_SIZES, "shapes": [[[8, 8]]] * 5}, ["sizes", "shapes"]),
        ({"scale": 8, "shapes": [[[8, 8]]] * 5}, ["scale=8", "shapes"]),
        ({"scales_per_octave": 3, "shapes": [[[8, 8]]] * 5}, ["scales_per_octave=3", "shapes"]),
        ({"shapes": [[8, 8]]}, ["shapes=[[8, 8]]", "5"]),
        ({"shapes": [[[8, 8, 8]]], "strides": [8]}, ["shapes", "[8.0, 8.0, 8.0]", "[width, height]"]),
        ({"shapes": [[[8, 0]]], "strides": [8]}, ["shapes", "0"]),
        ({"scale": 8, "offset": 1.5}, ["offset=1.5"]),
        ({"scale": 8, "order": "area"}, ["order=area", "one of size, ratio"]),
        ({"scale": 8, "stride": "guessed"}, ["stride=guessed", "one of declared, inferred"]),
    ],
)
def test_impossible_settings_are_one_sentence(settings, words):
    with pytest.raises(ValueError, match="=") as error:
        AnchorGrid(**{"strides": FPN, **settings})
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert message.count(". ") == 0


# Cache and precision


def test_cached_per_size_and_bounded():
    grid = AnchorGrid([16], strides=[8])
    first = grid([(2, 3)], (16, 24), "cpu")
    assert grid([(2, 3)], (16, 24), torch.device("cpu")) is first
    for width in range(4, 4 + MAX_CACHED_SIZES):
        assert len(grid([(2, width)], (16, 8 * width), "cpu").boxes) == 2 * width * 3
    assert len(grid._cache) == MAX_CACHED_SIZES
    assert grid([(2, 3)], (16, 24), "cpu") is not first


def test_inferred_strides_depend_on_the_image():
    grid = AnchorGrid([16], stride="inferred", strides=[8])
    assert not torch.equal(grid([(2, 3)], (16, 24), "cpu").boxes, grid([(2, 3)], (20, 30), "cpu").boxes)


def test_float32_under_autocast():
    grid = AnchorGrid([512], strides=[16])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        anchors = grid([(50, 84)], (800, 1333), "cpu")
    assert anchors.boxes.dtype == torch.float32
    assert torch.equal(anchors.boxes, AnchorGrid([512], strides=[16])([(50, 84)], (800, 1333), "cpu").boxes)


def test_anchors_first_made_in_validation_serve_training():
    grid = AnchorGrid([16], strides=[8])
    with torch.inference_mode():
        validation = grid([(2, 3)], (16, 24), "cpu")
        best = validation.lattice.best_iou(validation.boxes[:1])
    assert torch.equal(validation.lattice.best_iou(validation.boxes[:1]), best)
    deltas = torch.zeros_like(validation.boxes, requires_grad=True)
    (deltas * validation.boxes).sum().backward()
    assert deltas.grad is not None


def test_can_be_copied_and_sent_to_another_process():
    grid = AnchorGrid([16], strides=[8])
    boxes = grid([(2, 3)], (16, 24), "cpu").boxes
    for other in (copy.deepcopy(grid), pickle.loads(pickle.dumps(grid))):
        result = other([(2, 3)], (16, 24), "cpu")
        assert isinstance(result, Anchors)
        assert torch.equal(result.boxes, boxes)


def test_the_grid_knows_which_of_its_arguments_only_place_anchors():
    moved = {"offset": 0.5, "stride": "inferred"}
    assert set(AnchorGrid.PLACING) == set(moved)
    assert set(AnchorGrid.PLACING) < set(AnchorGrid.HABITS) < set(inspect.signature(AnchorGrid).parameters)
    plain, other = AnchorGrid([32, 64], strides=[8, 16]), AnchorGrid([32, 64], strides=[8, 16], **moved)
    assert all(torch.equal(a, b) for a, b in zip(plain.shapes, other.shapes, strict=True))
    placed = [grid([(4, 5), (2, 3)], (40, 48), "cpu").boxes for grid in (plain, other)]
    assert not torch.equal(*placed)
