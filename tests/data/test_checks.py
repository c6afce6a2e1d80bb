"""Every fault of a box, a name and an image file, and what of them can still be used."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anchorlab.data.checks import TOLERANCE, Checker, RawBox, image_size, judge
from anchorlab.data.sample import DataError, Problem

SIZE = (30, 50)  # height, width
ANY = st.floats(-80, 80) | st.sampled_from([math.nan, math.inf, 0.0, 30.0, 50.0])


@pytest.mark.parametrize(
    ("xyxy", "fault"),
    [
        ((1, 2, 1, 9), "zero-area"),
        ((1, 2, 9, 2), "zero-area"),
        ((9, 2, 1, 9), "inverted"),
        ((1, 9, 9, 2), "inverted"),
        ((9, 9, 1, 2), "inverted"),
        ((math.nan, 2, 9, 9), "not finite"),
        ((1, 2, math.inf, 9), "not finite"),
        ((50, 2, 60, 9), "outside"),  # starts where the image ends
        ((1, 30, 9, 40), "outside"),
        ((-9, 2, 0, 9), "outside"),
        ((1, -9, 9, 0), "outside"),
        ((40, 2, 40 + 1e-7, 9), "zero-area"),  # nothing left in float32
    ],
)
def test_boxes_that_cannot_be_used(xyxy, fault):
    message, usable = judge(_raw(xyxy), SIZE)
    assert message is not None
    assert fault in message
    assert usable is None


@pytest.mark.parametrize("side", range(4))
def test_a_box_may_reach_out_by_the_tolerance(side):
    edge = (0.0, 0.0, 50.0, 30.0)
    outwards = -1 if side < 2 else 1
    within = _moved(edge, side, outwards * TOLERANCE)
    assert judge(_raw(within), SIZE) == (None, within)
    message, usable = judge(_raw(_moved(edge, side, outwards * 1.01)), SIZE)
    assert message is not None
    assert "beyond its image of 30 x 50" in message
    assert usable == edge


@given(st.tuples(ANY, ANY, ANY, ANY))
def test_a_box_is_used_only_where_something_of_it_is_in_the_image(xyxy):
    message, usable = judge(_raw(xyxy), SIZE)
    if usable is None:
        assert message is not None
        return
    x1, y1, x2, y2 = usable
    assert min(x1, y1) >= -TOLERANCE
    assert x2 <= 50 + TOLERANCE
    assert y2 <= 30 + TOLERANCE
    clipped = np.clip(np.array(usable, np.float32), 0, [50, 30, 50, 30])
    assert (clipped[2:] > clipped[:2]).all()
    assert message is not None or usable == xyxy


def test_degenerate_is_judged_on_the_numbers_as_written():
    box = RawBox("box", (5, 5, 5, 9), (0, 4), (4, 4, 5, 9), category=0)  # VOC's corners make it a pixel wide
    assert judge(box, SIZE) == ("zero-area box", None)


@pytest.mark.parametrize("area", [math.nan, math.inf, -1.0])
def test_an_impossible_area(area):
    message, usable = judge(RawBox("box", (1, 2, 3, 4), (2, 2), (1, 2, 3, 4), 0, area=area), SIZE)
    assert "area" in (message or "")
    assert usable is None


def test_a_record_keeps_the_annotations_area_and_names_what_it_leaves_out():
    checker = Checker()
    raw = [
        RawBox("box 1", (1, 2, 3, 6), (2, 4), (1, 2, 3, 6), category=4, area=5.5),
        RawBox("box 2", (1, 2, 1, 6), (0, 4), (1, 2, 1, 6), category=4),
        RawBox("box 3", (1, 2, 3, 6), (2, 4), (1, 2, 3, 6), category=2, ignore=True),
        RawBox("box 4", (1, 2, 3, 6), (2, 4), (1, 2, 3, 6), category=2, area=0.0),
    ]
    record = checker.record(Path("a.json"), 7, Path("7.jpg"), SIZE, raw)
    assert record.area.tolist() == [5.5, 8, 0]
    assert record.category.tolist() == [4, 2, 2]
    assert record.ignore.tolist() == [False, True, False]
    assert (record.height, record.width) == SIZE
    assert [str(problem) for problem in checker.problems] == ["a.json: image 7, box 2: zero-area box: (1, 2, 1, 6)"]


def test_a_record_without_boxes():
    record = Checker().record(Path("a.json"), 7, Path("7.jpg"), SIZE, [])
    assert (record.boxes.shape, record.boxes.dtype) == ((0, 4), np.float64)
    assert (record.area.shape, record.category.dtype, record.ignore.dtype) == ((0,), np.int64, bool)


@pytest.mark.parametrize(
    "name", ["/etc/a.jpg", "../a.jpg", "b/../../a.jpg", "C:\\a.jpg", "b\\..\\a.jpg", "\\\\host\\a.jpg", "", None, 5]
)
def test_names_that_leave_the_folder_are_refused(name):
    checker = Checker()
    assert checker.path(Path("a.json"), 1, Path("images"), name) is None
    assert checker.problems[0].value == name


def test_names_below_the_folder_are_taken():
    assert Checker().path(Path("a.json"), 1, Path("images"), "train/a..b.jpg") == Path("images/train/a..b.jpg")


def test_symbolic_links_are_followed(tmp_path, write_image):
    write_image(tmp_path / "elsewhere" / "a.png", *SIZE)
    (tmp_path / "images").symlink_to(tmp_path / "elsewhere")
    checker = Checker()
    path = checker.path(Path("a.json"), 1, tmp_path / "images", "a.png")
    assert path is not None
    assert checker.size(Path("a.json"), 1, path, SIZE) == SIZE


def test_an_id_comes_once(tmp_path, write_image):
    checker, path = Checker(), write_image(tmp_path / "a.png", *SIZE)
    assert checker.size(Path("a.json"), 1, path, None) == SIZE
    assert checker.size(Path("a.json"), 1, path, None) is None
    assert checker.size(Path("a.json"), "1", path, None) == SIZE  # a word is another id
    assert [problem.message for problem in checker.problems] == ["duplicate image id"]


def test_a_wrong_size_names_both(tmp_path, write_image):
    checker = Checker()
    assert checker.size(Path("a.json"), 1, write_image(tmp_path / "a.png", *SIZE), (50, 30)) is None
    assert "30 x 50" in str(checker.problems[0])
    assert checker.problems[0].value == (50, 30)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_the_size_of_an_image(tmp_path, write_image, suffix):
    assert image_size(write_image(tmp_path / f"a{suffix}", *SIZE)) == SIZE


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
@settings(max_examples=20)
@given(share=st.floats(0, 0.95))
def test_a_truncated_image_is_found(tmp_path_factory, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP"}[suffix])
    path = tmp_path_factory.mktemp("cut") / f"a{suffix}"
    path.write_bytes(file.getvalue()[: int(share * len(file.getvalue()))])
    with pytest.raises(OSError, match="unreadable or truncated"):
        image_size(path)


def test_bytes_behind_the_end_of_an_image_do_no_harm(tmp_path, write_image):
    path = write_image(tmp_path / "a.jpg", *SIZE)
    path.write_bytes(path.read_bytes() + b"padding")
    assert image_size(path) == SIZE


def test_a_missing_image_and_a_folder(tmp_path):
    with pytest.raises(OSError, match="missing image"):
        image_size(tmp_path / "a.jpg")
    with pytest.raises(OSError, match="unreadable"):
        image_size(tmp_path)


def test_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # Orientation: turn by 90 degrees
    Image.new("RGB", (50, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == SIZE


def test_an_error_lists_each_problem_on_a_line():
    problems = [Problem(Path("a.json"), f"image {n}", "missing image", "a\nb") for n in range(3)]
    error = DataError("3 problems", problems)
    assert len(str(error).splitlines()) == 4
    assert error.problems == problems


def _moved(xyxy: tuple[float, ...], side: int, by: float) -> tuple[float, ...]:
    return (*xyxy[:side], xyxy[side] + by, *xyxy[side + 1 :])


def _raw(xyxy: tuple[float, ...]) -> RawBox:
    x1, y1, x2, y2 = xyxy
    return RawBox("box", xyxy, (x2 - x1, y2 - y1), (x1, y1, x2, y2), category=0)
