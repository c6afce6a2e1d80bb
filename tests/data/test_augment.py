"""Boxes stay on their objects under every augmentation; lost ones are ignored regions, not background.

Objects are rectangles of one colour each, so that a box can be compared with where its colour ended up.
"""

from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorlab.data.augment import Augmentation, cut, flipped, join_four
from anchorlab.data.sample import Sample
from anchorlab.data.transforms import Transforms

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255], [255, 0, 255]])
BACKGROUND = 60
BOXES = [[12, 20, 52, 44], [70, 8, 90, 78], [60, 85, 120, 95], [100, 30, 130, 60]]  # none touches another
STRONG: dict[str, Any] = {"mosaic": 0.5, "crop": 0.5, "flip": 0.5, "scale": [0.5, 2.0], "shift": 0.2}
STRONG_LOOKS: dict[str, Any] = {"colour": 0.4, "blur": 0.5, "noise": 0.5}


def paint(boxes=BOXES, size=(101, 143), ignore=None, image_id=0, first_colour=0) -> Sample:
    """A sample with one flat rectangle per box; category c has colour c."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    image = np.full((*size, 3), BACKGROUND, np.uint8)
    category = np.arange(len(boxes)) + first_colour
    for (x1, y1, x2, y2), colour in zip(boxes.astype(int), COLOURS[category], strict=True):
        image[y1:y2, x1:x2] = colour
    return Sample(
        image=image,
        boxes=boxes,
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        category=category.astype(np.int64),
        ignore=np.zeros(len(boxes), bool) if ignore is None else np.array(ignore, bool),
        image_id=image_id,
    )


def no_draw(row: int) -> Sample:
    raise AssertionError("only a mosaic asks for other samples")


def extent_of_colour(image: np.ndarray, category: int) -> np.ndarray | None:
    """x1, y1, x2, y2 of the pixels nearest to that colour, of colours and grounds; None without any."""
    palette = np.concatenate([COLOURS, [[BACKGROUND] * 3, [114] * 3]])
    distance = np.abs(image[:, :, None].astype(int) - palette).sum(axis=-1)
    rows, columns = np.nonzero(distance.argmin(axis=-1) == category)
    if not len(rows):
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def assert_boxes_on_objects(sample: Sample, tolerance: float = 1.5) -> None:
    for box, category in zip(sample.boxes, sample.category, strict=True):
        if (box[2:] - box[:2]).min() < 3:
            continue  # too thin for a colour of its own after interpolation
        extent = extent_of_colour(sample.image, category)
        assert extent is not None
        np.testing.assert_allclose(box, extent, atol=tolerance)


def assert_well_formed(sample: Sample) -> None:
    height, width = sample.image.shape[:2]
    count = len(sample.boxes)
    assert sample.image.dtype == np.uint8
    assert sample.image.flags.c_contiguous
    assert sample.boxes.shape == (count, 4)
    assert sample.area.shape == sample.category.shape == sample.ignore.shape == (count,)
    types = (sample.boxes.dtype, sample.area.dtype, sample.category.dtype, sample.ignore.dtype)
    assert types == (np.float32, np.float32, np.int64, bool)
    assert (sample.boxes >= 0).all()
    assert (sample.boxes <= (width, height, width, height)).all()
    assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
    assert (sample.area > 0).all()


# -------------------------------------------------------------------------------- boxes stay on their objects


@pytest.mark.parametrize(
    "step",
    [
        {"flip": 1.0},
        {"crop": 1.0},
        {"scale": [0.5, 2.0]},
        {"scale": [0.4, 0.9]},
        {"shift": 0.3},
        {"flip": 0.5, "crop": 0.5, "scale": [0.6, 1.8], "shift": 0.2},
    ],
    ids=str,
)
def test_boxes_stay_on_their_objects(step):
    sample = paint()
    augment = Augmentation(**step)
    for seed in range(25):
        out = augment(sample, np.random.default_rng(seed), no_draw)
        assert_well_formed(out)
        assert_boxes_on_objects(out)


def test_a_flip_is_exact():
    out = Augmentation(flip=1.0)(paint(), np.random.default_rng(0), no_draw)
    assert_boxes_on_objects(out, tolerance=0)
    np.testing.assert_array_equal(out.boxes[0], [143 - 52, 20, 143 - 12, 44])


def test_a_crop_holds_every_object_and_half_of_either_side():
    augment = Augmentation(crop=1.0)
    smaller = 0
    for seed in range(40):
        for boxes in ([[12.3, 20.7, 52.4, 44.2], [70, 8, 90, 101]], [[0, 0, 4, 5]], []):
            sample = paint(boxes)
            out = augment(sample, np.random.default_rng(seed), no_draw)
            assert out.image.shape[0] >= 101 // 2
            assert out.image.shape[1] >= 143 // 2
            np.testing.assert_allclose(out.area, sample.area, rtol=1e-4)
            smaller += out.image.shape != sample.image.shape
    assert smaller > 60


def test_a_crop_may_cut_an_ignored_region_but_no_object():
    sample = paint([[60, 40, 80, 60], [0, 0, 143, 101]], ignore=[False, True])
    outs = [Augmentation(crop=1.0)(sample, np.random.default_rng(seed), no_draw) for seed in range(20)]
    assert all(abs(out.area[0] - 400) < 0.1 for out in outs)
    assert min(out.area[1] for out in outs) < 143 * 101


def test_scaling_shrinks_and_grows_about_equally_often():
    augment = Augmentation(scale=[0.5, 3.0])
    grown = [
        augment(paint([[60, 40, 80, 60]]), np.random.default_rng(seed), no_draw).area[0] > 400 for seed in range(80)
    ]
    assert 25 < sum(grown) < 55


def test_scaling_keeps_the_picture_size_and_the_ratio_of_objects():
    sample = paint([[60, 40, 90, 60]])
    for seed in range(10):
        out = Augmentation(scale=[0.5, 1.5])(sample, np.random.default_rng(seed), no_draw)
        assert out.image.shape == sample.image.shape
        width, height = out.boxes[0, 2:] - out.boxes[0, :2]
        assert width / height == pytest.approx(1.5, rel=1e-4)


@pytest.mark.parametrize("looks", [{"colour": 0.4}, {"blur": 1.0}, {"noise": 1.0}], ids=str)
def test_looks_change_pixels_and_neither_boxes_nor_where_things_are(looks):
    boxes = [[50, 30, 70, 70]]
    sample = replace(paint(boxes), image=paint(boxes).image.max(axis=2, keepdims=True).repeat(3, axis=2))
    for seed in range(20):
        out = Augmentation(**looks)(sample, np.random.default_rng(seed), no_draw)
        np.testing.assert_allclose(out.boxes, sample.boxes, atol=1e-4)
        assert (out.image != sample.image).any()
        object_ = out.image.mean(axis=2) - np.median(out.image.mean(axis=2)) > 40
        rows, columns = np.nonzero(object_)
        np.testing.assert_allclose([columns.mean(), rows.mean()], [59.5, 49.5], atol=0.6)


def test_agrees_with_the_boxes_of_albumentations():
    import albumentations as A

    augment, sample = Augmentation(flip=0.5, scale=[0.6, 1.8], shift=0.2, min_visibility=0.0), paint()
    params = A.BboxParams(format="pascal_voc", label_fields=["row"], clip=True, filter_invalid_bboxes=True)
    theirs = A.Compose(list(augment._transforms._moves()), bbox_params=params)
    for seed in range(20):
        out = augment(sample, np.random.default_rng(seed), no_draw)
        rng = np.random.default_rng(seed)
        rng.random()  # whether to build a mosaic
        theirs.set_random_seed(int(rng.integers(2**31)))
        expected = theirs(image=sample.image, bboxes=sample.boxes, row=np.arange(len(sample.boxes)))
        np.testing.assert_array_equal(out.image, expected["image"])
        np.testing.assert_array_equal(out.category, np.asarray(expected["row"], int))
        np.testing.assert_allclose(out.boxes, np.reshape(expected["bboxes"], (-1, 4)), atol=1e-3)


# ------------------------------------------------------------------------------------ what is lost is ignored


def test_cut_by_hand():
    """A 10 x 10 box moved out of a 100 x 50 picture (width x height) by more and more."""
    image = np.zeros((50, 100, 3), np.uint8)
    start = paint([[0, 0, 10, 10]] * 5, size=(50, 100))
    moved = np.array(
        [[93, 0, 103, 10], [97, 0, 107, 10], [97.1, 0, 107.1, 10], [99.5, 0, 109.5, 10], [100, 0, 110, 10]]
    )
    out = cut(start, image, moved, min_visibility=0.3)
    np.testing.assert_allclose(out.boxes, [[93, 0, 100, 10], [97, 0, 100, 10], [97.1, 0, 100, 10]])
    np.testing.assert_array_equal(out.category, [0, 1, 2])
    np.testing.assert_array_equal(out.ignore, [False, False, True])  # exactly the least share is enough
    np.testing.assert_allclose(out.area, [70, 30, 29], rtol=1e-5)


def test_cut_scales_the_annotated_area():
    start = replace(paint([[0, 0, 10, 10]]), area=np.array([60], np.float32))  # of a mask, not of the box
    out = cut(start, start.image, np.array([[0, 0, 20, 20]]), 0.3)
    np.testing.assert_allclose(out.area, [240])


def test_cut_drops_boxes_without_area_and_keeps_thin_objects():
    start = paint([[5, 5, 5, 9], [7, 7, 7, 7], [1, 1, 1.5, 20]])
    out = cut(start, start.image, start.boxes, 0.3)
    np.testing.assert_array_equal(out.category, [2])


def test_ignored_regions_stay_ignored_while_any_of_them_shows():
    start = paint([[0, 0, 100, 10]], ignore=[True])
    out = cut(start, start.image, np.array([[-95, 0, 5, 10]]), 0.3)
    np.testing.assert_array_equal(out.ignore, [True])
    np.testing.assert_allclose(out.boxes, [[0, 0, 5, 10]])


def test_objects_pushed_out_of_the_picture_become_ignored_or_vanish():
    sample = paint([[0, 0, 20, 20], [123, 81, 143, 101]])
    augment = Augmentation(scale=[1.5, 1.5], shift=0.05, min_visibility=1.0)
    seen = set()
    for seed in range(60):
        out = augment(sample, np.random.default_rng(seed), no_draw)
        assert_well_formed(out)
        assert_boxes_on_objects(out, tolerance=2)
        assert out.ignore.all()
        seen.add(len(out.boxes))
    assert 0 in seen
    assert max(seen) > 0


def test_a_lower_threshold_keeps_the_same_objects():
    sample, kept = paint(), []
    for threshold in (0.0, 0.6):
        augment = Augmentation(scale=[1.6, 2.0], shift=0.2, min_visibility=threshold)
        outs = [augment(sample, np.random.default_rng(seed), no_draw) for seed in range(20)]
        kept.append([int((~out.ignore).sum()) for out in outs])
        boxes = [len(out.boxes) for out in outs]
    assert all(a >= b for a, b in zip(*kept, strict=True))
    assert sum(kept[0]) > sum(kept[1])
    assert sum(boxes) > sum(kept[1])  # the difference is there as ignored regions


# ----------------------------------------------------------------------------------------------------- mosaic


def four() -> list[Sample]:
    sizes = [(101, 143), (80, 200), (150, 90), (60, 60)]
    boxes = [[30, 20, 50, 44], [30, 20, 55, 55], [10, 60, 70, 90], [5, 5, 50, 40]]
    return [
        paint([box], size, image_id=index, first_colour=index)
        for index, (size, box) in enumerate(zip(sizes, boxes, strict=True))
    ]


def test_a_mosaic_keeps_boxes_on_objects_in_the_first_ones_size():
    places = set()
    for seed in range(40):
        out = join_four(four(), 0.0, np.random.default_rng(seed))
        assert_well_formed(out)
        assert_boxes_on_objects(out)
        assert out.image.shape == (101, 143, 3)
        assert out.image_id == 0
        first = out.boxes[out.category == 0]
        places.update((bool(x > 71), bool(y > 50)) for x, y in (first[:, :2] + first[:, 2:]) / 2)
    assert len(places) == 4


def test_a_mosaic_leaves_its_samples_alone():
    samples = four()
    for one in samples:
        one.image.flags.writeable = False
    join_four(samples, 0.3, np.random.default_rng(0))


def test_a_mosaic_of_images_without_boxes():
    out = join_four([paint([])] * 4, 0.3, np.random.default_rng(0))
    assert_well_formed(out)
    assert len(out.boxes) == 0


def test_other_samples_are_asked_for_by_row():
    rows = []

    def draw(row: int) -> Sample:
        rows.append(row)
        return four()[row % 4]

    for seed in range(10):
        assert_well_formed(Augmentation(mosaic=1.0)(four()[0], np.random.default_rng(seed), draw))
    assert len(rows) == 30
    assert len(set(rows)) == 30
    assert all(isinstance(row, int) and row >= 0 for row in rows)


# ------------------------------------------------------------------------------------------------ in any case


def test_without_any_step_nothing_changes():
    sample = paint()
    out = Augmentation()(sample, np.random.default_rng(0), no_draw)
    for name in ("image", "boxes", "area", "category", "ignore"):
        np.testing.assert_array_equal(getattr(out, name), getattr(sample, name))


def test_the_same_generator_gives_the_same_sample_whatever_came_before():
    augment, sample = Augmentation(**STRONG, **STRONG_LOOKS), paint()

    def draw(row: int) -> Sample:
        return four()[row % 4]

    first = [augment(sample, np.random.default_rng([0, seed]), draw) for seed in range(6)]
    other = Augmentation(**STRONG, **STRONG_LOOKS)
    again = [other(sample, np.random.default_rng([0, seed]), draw) for seed in reversed(range(6))][::-1]
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.image, same.image)
        np.testing.assert_array_equal(one.boxes, same.boxes)
    assert any(one.image.shape != two.image.shape or (one.image != two.image).any() for one, two in pairwise(first))


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(2, 60), st.integers(2, 60)),
    corners=st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=5),
    ignore=st.lists(st.booleans(), min_size=5, max_size=5),
    seed=st.integers(0, 2**31),
)
def test_any_boxes_come_out_well_formed(size, corners, ignore, seed):
    """Also degenerate ones, and images of a few pixels."""
    height, width = size
    boxes = np.sort(np.array(corners, np.float64).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    boxes = (boxes * (width, height, width, height)).astype(np.float32)
    sample = Sample(
        image=np.zeros((height, width, 3), np.uint8),
        boxes=boxes,
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        category=np.arange(len(boxes)),
        ignore=np.array(ignore[: len(boxes)], bool),
        image_id=0,
    )
    out = SHARED(sample, np.random.default_rng(seed), lambda row: sample)
    assert_well_formed(out)
    assert set(out.category) <= set(sample.category)
    assert out.ignore[np.isin(out.category, sample.category[sample.ignore])].all()


SHARED = Augmentation(**STRONG, **STRONG_LOOKS)  # building the transforms takes longer than applying them


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("flip", 1.5),
        ("mosaic", -0.1),
        ("crop", 2),
        ("blur", -1),
        ("noise", 1.01),
        ("colour", 1.2),
        ("shift", -0.5),
        ("min_visibility", 30),
        ("scale", [1.5, 0.5]),
        ("scale", [0.0, 1.0]),
        ("scale", [1.0]),
    ],
)
def test_a_wrong_number_is_one_sentence_with_its_key(key: str, value: Any):
    with pytest.raises(ValueError, match=rf"^{key}=[^\n]*$"):
        Augmentation(**{key: value})


def test_a_flip_alone_is_what_albumentations_makes_of_it():
    sample, numbers = paint(), np.random.default_rng(0)
    points = numbers.uniform(0, 140, (200, 2)).astype(np.float32)
    by_albumentations = Transforms(crop=0, flip=0.3, scale=None, shift=0, colour=0, blur=0, noise=0)
    both = set()
    for seed in numbers.integers(2**31, size=300).tolist():
        image, moved = by_albumentations(seed, sample.image, points, None)
        flips = Random(seed).random() < 0.3
        both.add(flips)
        ours, ours_moved = flipped(sample.image, points) if flips else (sample.image, points)
        np.testing.assert_array_equal(image, ours)
        np.testing.assert_array_equal(moved, ours_moved)
    assert both == {True, False}


def test_an_augmentation_that_only_flips_gives_what_it_gives_by_albumentations():
    alone, other = Augmentation(flip=0.5, mosaic=0.3), Augmentation(flip=0.5, mosaic=0.3)
    assert alone.only_flips
    other.only_flips = False
    for seed in range(40):
        ours, theirs = (a(paint(), np.random.default_rng(seed), lambda i: paint(image_id=i)) for a in (alone, other))
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        np.testing.assert_array_equal(ours.area, theirs.area)
