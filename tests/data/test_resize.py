"""The one function that says how large an image is, and boxes that stay on their objects."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorlab.data.resize import resize_image, resize_sample, target_size
from anchorlab.data.sample import Sample

SIDES = st.integers(1, 3000)


@pytest.mark.parametrize(
    ("original", "short", "long", "expected"),
    [
        ((480, 640), None, 416, (312, 416)),  # the long side alone
        ((640, 480), None, 416, (416, 312)),
        ((375, 500), 600, 1000, (600, 800)),  # the paper: the short side
        ((300, 500), 600, 1000, (600, 1000)),  # both limits at once
        ((299, 500), 600, 1000, (598, 1000)),  # the paper: the long side's limit
        ((480, 640), 800, 1333, (800, 1067)),  # torchvision's numbers
        ((375, 500), 600, None, (600, 800)),
        ((375, 500), None, None, (375, 500)),
        ((3, 1000), None, 100, (1, 100)),  # 0.3 pixels are one
        ((5, 2), None, 3, (3, 1)),  # 1.2 pixels are one
        ((5, 4), None, 8, (8, 6)),  # 6.4
        ((2, 1), None, 3, (3, 2)),  # 1.5 is rounded up
    ],
)
def test_known_sizes(original, short, long, expected):
    height, width = original
    assert target_size(height, width, short, long) == expected


@given(SIDES, SIDES, st.integers(1, 1500), st.integers(1, 1500))
def test_one_limit_is_met_and_none_is_exceeded(height, width, short, long):
    size = target_size(height, width, short, long)
    assert min(size) <= short or max(size) == 1
    assert max(size) <= long
    assert min(size) == short or max(size) == long
    scale = min(short / min(height, width), long / max(height, width))
    np.testing.assert_allclose(size, np.maximum([height * scale, width * scale], 1), atol=0.5 + 1e-9)


@given(SIDES, SIDES, st.integers(1, 1500), st.integers(1, 1500))
def test_a_turned_image_gets_a_turned_size(height, width, short, long):
    assert target_size(height, width, short, long) == target_size(width, height, short, long)[::-1]


@settings(max_examples=40)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(12, 200), st.data())
def test_a_box_stays_on_its_object(height, width, long, data):
    x1, x2 = sorted(data.draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(data.draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    sample = _sample(height, width, [[x1, y1, x2, y2]])
    sample.image[y1:y2, x1:x2] = 255
    resized, (tall, wide) = resize_sample(sample, target_size(height, width, None, long))
    assert resized.image.shape[:2] == (round(height * tall), round(width * wide))
    # Summed brightness gives the object's extent to a fraction of a pixel, whatever the blur at its edges.
    area = resized.image[..., 0].sum() / 255
    box = resized.boxes[0]
    assert abs(area - (box[2] - box[0]) * (box[3] - box[1])) <= 0.5 * sum(resized.image.shape[:2])
    rows, columns = np.nonzero(resized.image[..., 0] > 127)
    if len(rows):
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found, box, atol=1.01)


def test_each_axis_has_its_own_scale():
    resized, scale = resize_sample(_sample(10, 30, [[3, 2, 9, 4]]), (5, 20))
    assert scale == (5 / 10, 20 / 30)
    np.testing.assert_allclose(resized.boxes, [[2, 1, 6, 2]])
    np.testing.assert_allclose(resized.area, [12 / 3])
    assert resized.boxes.dtype == resized.area.dtype == np.float32


def test_an_image_without_boxes():
    resized, _ = resize_sample(_sample(10, 30, []), (20, 60))
    assert resized.boxes.shape == (0, 4)
    assert resized.area.shape == (0,)


def test_shrinking_by_much_averages_instead_of_skipping_pixels():
    stripes = np.zeros((120, 160, 3), np.uint8)
    stripes[:, 2::5] = 255  # a fifth of the light
    assert (resize_image(stripes, (24, 32)) == 51).all()
    assert (cv2.resize(stripes, (32, 24), interpolation=cv2.INTER_LINEAR) == 255).all()


def test_an_image_of_the_right_size_is_left_alone():
    image = np.zeros((4, 6, 3), np.uint8)
    assert resize_image(image, (4, 6)) is image


def _sample(height: int, width: int, boxes: list[list[float]]) -> Sample:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return Sample(
        image=np.zeros((height, width, 3), np.uint8),
        boxes=array,
        area=(array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1]),
        category=np.zeros(len(array), np.int64),
        ignore=np.zeros(len(array), bool),
        image_id="a",
    )
