"""Every fault of a box, a name and an image file, and what of them can still be used."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anchorlab.data.checks import TOLERANCE, Checker, Entry, RawBox, judge
from anchorlab.data.headers import Header, ImageRules, image_size, read_header
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
    record = _record(checker, raw)
    assert record.area.tolist() == [5.5, 8, 0]
    assert record.category.tolist() == [4, 2, 2]
    assert record.ignore.tolist() == [False, True, False]
    assert (record.height, record.width) == SIZE
    assert [str(problem) for problem in checker.problems] == ["a.json: image 7, box 2: zero-area box: (1, 2, 1, 6)"]


def test_a_record_without_boxes():
    record = _record(Checker(), [])
    assert (record.boxes.shape, record.boxes.dtype) == ((0, 4), np.float64)
    assert (record.area.shape, record.category.dtype, record.ignore.dtype) == ((0,), np.int64, bool)


def test_a_zero_area_that_the_file_itself_states_is_harmless():
    checker = Checker()
    raw = [
        RawBox("box 1", (1, 2, 0, 4), (0, 4), (1, 2, 1, 6), 0, area=0.0),
        RawBox("box 2", (1, 2, 0, 4), (0, 4), (1, 2, 1, 6), 0),
    ]
    assert len(_record(checker, raw).boxes) == 0
    assert [problem.harmless for problem in checker.problems] == [True, False]


def test_a_box_over_the_border_is_clipped_and_harmless():
    checker = Checker()
    raw = RawBox("box 1", (40, 2, 20, 4), (20, 4), (40, 2, 60, 6), 0)
    assert _record(checker, [raw]).boxes.tolist() == [[40, 2, 50, 6]]
    assert [problem.harmless for problem in checker.problems] == [True]


def test_an_id_comes_once():
    checker = Checker()
    assert checker.is_new(_entry(1))
    assert not checker.is_new(_entry(1))
    assert checker.is_new(_entry("1"))  # a word is another id
    assert [problem.message for problem in checker.problems] == ["duplicate image id"]


def test_a_wrong_size_names_both():
    checker = Checker()
    assert checker.record(_entry(1, declared=(31, 50)), Header(*SIZE)) is None
    assert "30 x 50" in str(checker.problems[0])
    assert checker.problems[0].value == (31, 50)
    checker.record(_entry(2, declared=(50, 30)), Header(*SIZE))
    assert "its sides are exchanged" in str(checker.problems[1])


SIDEWAYS = Header(*SIZE, orientation=6)


@pytest.mark.parametrize(
    ("exif", "declared", "size", "orientation"),
    [
        ("auto", None, (50, 30), 6),
        ("auto", (50, 30), (50, 30), 6),  # annotated as it is shown
        ("auto", SIZE, SIZE, 1),  # annotated as it is stored
        ("apply", (50, 30), (50, 30), 6),
        ("ignore", SIZE, SIZE, 1),
        ("ignore", None, SIZE, 1),
        ("apply", SIZE, None, None),
        ("ignore", (50, 30), None, None),
    ],
)
def test_a_declared_size_says_which_frame_is_annotated(exif, declared, size, orientation):
    checker = Checker(ImageRules(exif))
    record = checker.record(_entry(1, declared), SIDEWAYS)
    if size is None:
        assert record is None
        assert f"data.exif={exif}: its EXIF orientation is 6" in str(checker.problems[0])
    else:
        assert record is not None
        assert ((record.height, record.width), record.orientation) == (size, orientation)
        assert checker.turned == (orientation == 6)


@pytest.mark.parametrize(("declared", "orientation"), [((50, 30), 3), (SIZE, 1)])
def test_where_the_size_does_not_tell_the_others_do(declared, orientation):
    checker = Checker()
    upside_down = checker.record(_entry(1, SIZE), Header(*SIZE, orientation=3), 0)
    other = checker.record(_entry(2, declared), SIDEWAYS, 1)
    assert upside_down is not None
    assert other is not None
    records = [upside_down, other]
    checker.settle(records)
    assert records[0].orientation == orientation


def test_a_wrong_word_for_exif():
    with pytest.raises(ValueError, match=r"data\.exif='yes' must be one of auto, apply, ignore"):
        ImageRules("yes")  # type: ignore[arg-type]


def test_megapixels_are_a_setting_and_no_warning(tmp_path, recwarn):
    Image.new("L", (20_000, 10_000)).save(tmp_path / "a.png", compress_level=1)
    with pytest.raises(OSError, match=r"image of 200 megapixels, above data\.megapixels=180: raise it"):
        read_header(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png", 250) == Header(10_000, 20_000)
    assert not recwarn.list


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


def test_the_orientation_is_read(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # Orientation: turn by 90 degrees
    Image.new("RGB", (50, 30)).save(tmp_path / "a.jpg", exif=exif)
    header = read_header(tmp_path / "a.jpg")
    assert (header.stored, header.shown, header.orientation) == (SIZE, (50, 30), 6)


def test_an_error_takes_at_most_ten_lines_and_counts_the_rest():
    problems = [Problem(Path("a.json"), f"image {n}", f"box {n} is bad", n) for n in range(20_000)]
    problems += [Problem(Path("b.json"), "image 1", f"{word} missing") for word in "abcdefghijkl"]
    lines = str(DataError("many", problems)).splitlines()
    assert len(lines) == 11
    assert lines[1] == "  a.json: image 0: box 0 is bad: 0 (and 19,999 more like it)"
    assert lines[-1] == "  and 4 more kinds"


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


def _entry(image_id, declared=None, boxes=()):
    return Entry(Path("a.json"), image_id, Path("7.jpg"), declared, boxes)


def _record(checker, raw):
    record = checker.record(_entry(7, SIZE, raw), Header(*SIZE))
    assert record is not None
    return record
