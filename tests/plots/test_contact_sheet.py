"""The contact sheet shows every sample, and each box on the pixels it names."""

import cv2
import numpy as np
import pytest

from anchorlab.data.sample import Sample
from anchorlab.plots.contact_sheet import IGNORED, OBJECT, contact_sheet, draw_boxes


def sample(height=60, width=90, boxes=((10, 20, 50, 41),), ignore=(False,)) -> Sample:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Sample(
        image=np.zeros((height, width, 3), np.uint8),
        boxes=boxes,
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        category=np.zeros(len(boxes), np.int64),
        ignore=np.array(ignore, bool),
        image_id=7,
    )


def where(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == colour).all(axis=2)


def extent(mask: np.ndarray) -> list[int]:
    """x1, y1, x2, y2 around the marked pixels, right and bottom exclusive."""
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(("scale", "expected"), [(1.0, [10, 20, 50, 41]), (2.0, [20, 40, 100, 82])])
def test_a_frame_lies_on_the_outermost_pixels_of_its_box(scale, expected):
    picture = draw_boxes(sample(), scale)
    assert picture.shape == (60 * scale, 90 * scale, 3)
    assert extent(where(picture, OBJECT)) == expected
    assert not where(picture, OBJECT)[30 * int(scale), 30 * int(scale)]  # a frame, not an area


def test_an_ignored_region_is_dashed_in_another_colour():
    picture = draw_boxes(sample(boxes=((10, 20, 50, 41), (5, 5, 80, 55)), ignore=(False, True)))
    assert extent(where(picture, OBJECT)) == [10, 20, 50, 41]
    top = where(picture, IGNORED)[5, 5:80]
    assert 0.4 < top.mean() < 0.6
    assert top[0]


def test_a_box_thinner_than_a_pixel_still_shows():
    picture = draw_boxes(sample(boxes=((10.2, 20.2, 10.4, 20.4),)))
    assert where(picture, OBJECT).sum() == 1


def test_the_sample_is_left_as_it_is():
    one = sample()
    draw_boxes(one)
    assert not one.image.any()


def test_a_sheet_holds_every_sample_of_any_shape(tmp_path):
    samples = [sample(), sample(120, 40), sample(50, 50, (), ()), sample(61, 90), sample(10, 200)]
    path = contact_sheet(iter(samples), tmp_path / "new" / "sheet.png", columns=3, tile=100)
    sheet = np.asarray(cv2.imread(str(path)))[..., ::-1]
    assert sheet.shape[1] >= 3 * 100
    tiles, _ = cv2.connectedComponents((sheet == 0).all(axis=2).astype(np.uint8))
    assert tiles - 1 >= len(samples)
    frames, _ = cv2.connectedComponents(where(sheet, OBJECT).astype(np.uint8))
    assert frames - 1 >= 1


def test_without_samples_there_is_no_sheet(tmp_path):
    with pytest.raises(ValueError, match="at least one sample"):
        contact_sheet([], tmp_path / "sheet.png")
