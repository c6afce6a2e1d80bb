"""What must never happen silently: turned photographs, text for numbers, encodings, spellings, black images."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from anchorlab.data.auto import AutoReader
from anchorlab.data.decode import eight_bits, read_image, turned
from anchorlab.data.module import DataModule
from anchorlab.data.names import parts_of
from anchorlab.data.sample import DataError, Problem, Record
from anchorlab.data.synthetic import SyntheticReader
from anchorlab.data.text import decode_text
from tests.data.drawing import HEIGHT, TURNS, WIDTH, check_red, coco, draw, scene, voc, write, write_coco, yolo


def load(root: Path, **settings: Any) -> tuple[list[Record], list[Problem], AutoReader]:
    reader = AutoReader(root=root, **settings)
    return *reader.read("train"), reader


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_a_viewer_turns_it(tmp_path: Path, orientation: int) -> None:
    boxes = draw(tmp_path / "images/0.jpg", 0, orientation)
    write(tmp_path / "labels/0.txt", yolo(boxes))
    records, problems, reader = load(tmp_path)
    assert (problems, records[0].orientation) == ([], orientation)
    check_red(records)
    note = "1 image turned by their EXIF orientation (data.exif)"
    assert (note in reader.taken()) == (orientation != 1)
    shown, _ = scene(0)
    stored = np.asarray(Image.fromarray(shown).transpose(TURNS[orientation])) if orientation > 1 else shown
    np.testing.assert_array_equal(turned(stored, orientation), shown)


@pytest.mark.parametrize("format", ["coco", "voc"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_boxes_of_the_frame_that_is_shown(tmp_path: Path, format: str, orientation: int) -> None:
    rows = [(f"{i}.jpg", draw(tmp_path / f"images/{i}.jpg", i, orientation)) for i in range(3)]
    if format == "coco":
        write(tmp_path / "instances.json", json.dumps(coco(rows)))
    else:
        for i, (name, boxes) in enumerate(rows):
            write(tmp_path / f"annotations/{i}.xml", voc(name, boxes))
    records, problems, _ = load(tmp_path)
    assert problems == []
    check_red(records)


def test_boxes_of_the_frame_that_is_stored(tmp_path: Path) -> None:
    rows = [(f"{i}.jpg", scene(i)[1]) for i in range(2)]
    for i, orientation in enumerate((6, 3)):  # the first one's size tells it of both
        exif = Image.Exif()
        exif[0x0112] = orientation
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(scene(i)[0]).save(tmp_path / f"images/{i}.jpg", exif=exif, quality=95)
    write(tmp_path / "instances.json", json.dumps(coco(rows)))
    records, problems, reader = load(tmp_path)
    assert (problems, [record.orientation for record in records]) == ([], [1, 1])
    check_red(records)
    assert reader.remarks == []


def _each(content: dict[str, Any], rows: str, **values: Any) -> dict[str, Any]:
    for row in content[rows]:
        row.update(values)
    return content


def _texts(content: dict[str, Any], rows: str, *keys: str) -> dict[str, Any]:
    for row in content[rows]:
        for key in keys:
            row[key] = [str(value) for value in row[key]] if isinstance(row[key], list) else str(row[key])
    return content


def _without(content: dict[str, Any], rows: str, *keys: str) -> dict[str, Any]:
    for row in content[rows]:
        for key in keys:
            row.pop(key)
    return content


def _polygons(content: dict[str, Any]) -> dict[str, Any]:
    for row in content["annotations"]:
        x, y, w, h = row.pop("bbox")
        row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return content


MEANT = {
    "iscrowd in quotes": lambda c: _each(c, "annotations", iscrowd="0"),
    "iscrowd false": lambda c: _each(c, "annotations", iscrowd=False),
    "nothing known": lambda c: _each(c, "annotations", iscrowd=None, area=None),
    "area in quotes": lambda c: _texts(c, "annotations", "area"),
    "boxes in quotes": lambda c: _texts(c, "annotations", "bbox"),
    "sizes in quotes": lambda c: _texts(c, "images", "width", "height"),
    "image ids in quotes": lambda c: _texts(c, "annotations", "image_id"),
    "category ids in quotes": lambda c: _texts(c, "annotations", "category_id"),
    "no sizes": lambda c: _each(c, "images", width=-1, height=-1),
    "no annotation ids": lambda c: _without(c, "annotations", "id", "area"),
    "no categories": lambda c: {key: value for key, value in c.items() if key != "categories"},
    "polygons": _polygons,
    "negative areas": lambda c: _each(c, "annotations", area=-1),
    "one annotation id": lambda c: _each(c, "annotations", id=1),
}


@pytest.mark.parametrize("kind", MEANT)
def test_what_has_one_meaning_is_read(tmp_path: Path, kind: str) -> None:
    write_coco(tmp_path / "instances.json", tmp_path / "images", ["0.jpg", "1.jpg"])
    content = MEANT[kind](json.loads((tmp_path / "instances.json").read_text()))
    write(tmp_path / "instances.json", json.dumps(content))
    records, problems, _ = load(tmp_path)
    assert [problem for problem in problems if not problem.harmless] == []
    assert not any(record.ignore.any() for record in records)
    assert all((record.area > 0).all() for record in records)
    check_red(records)


CALLED = {
    "windows": ("images", "sub\\{}"),
    "prefix": ("images", "images/{}"),
    "doubled": ("images/images", "images/images/{}"),
    "absolute": ("images", "/data/me/project/{}"),
    "drive": ("images", "C:\\Users\\me\\{}"),
    "address": ("images", "https://bucket.s3.amazonaws.com/p/{}?versionId=3"),
    "dots": ("images", "./{}"),
    "above": ("images", "../../media/{}"),
    "elsewhere": ("pictures of mine/2020", "{}"),
}


@pytest.mark.parametrize("kind", CALLED)
def test_names_of_images(tmp_path: Path, kind: str) -> None:
    folder, called = CALLED[kind]
    names = ["my photo (1).jpg", "фото-图.jpg"]
    if kind == "windows":
        folder += "/sub"
    write_coco(tmp_path / "instances.json", tmp_path / folder, names, called=called)
    records, problems, _ = load(tmp_path)
    assert problems == []
    check_red(records)


@pytest.mark.parametrize(
    "change", [str.upper, lambda n: n.replace(".jpg", ""), lambda n: unicodedata.normalize("NFD", n)]
)
def test_spellings_of_names(tmp_path: Path, change: Any) -> None:
    names = ["café_1.jpg", "café_2.jpg"]
    rows = [(change(name), draw(tmp_path / "images" / name, i)) for i, name in enumerate(names)]
    write(tmp_path / "instances.json", json.dumps(coco(rows)))
    records, problems, _ = load(tmp_path)
    assert problems == []
    check_red(records)


def test_an_image_of_another_split_is_not_taken(tmp_path: Path) -> None:
    write_coco(tmp_path / "train.json", tmp_path / "images/train", ["0.jpg", "1.jpg"])
    draw(tmp_path / "images/val/2.jpg", 2)
    content = json.loads((tmp_path / "train.json").read_text())
    content["images"].append({"id": 3, "file_name": "2.jpg"})
    write(tmp_path / "train.json", json.dumps(content))
    records, (problem,), _ = load(tmp_path)
    assert len(records) == 2
    assert problem.message.startswith("1 of 3 images are not there (2.jpg); looked in ")


def test_missing_images_are_one_sentence(tmp_path: Path) -> None:
    write_coco(tmp_path / "instances.json", tmp_path / "images", [f"{n}.jpg" for n in range(2)])
    content = json.loads((tmp_path / "instances.json").read_text())
    content["images"] += [{"id": 100 + n, "file_name": f"gone{n}.jpg"} for n in range(50)]
    write(tmp_path / "instances.json", json.dumps(content))
    with pytest.raises(
        DataError, match=r"50 of 52 images are not there \(gone0.jpg, gone1.jpg, gone2.jpg, \.\.\.\)"
    ) as caught:
        DataModule(AutoReader, str(tmp_path), workers=0).setup()
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("目标", "gbk"),
        ("véhicule", "latin-1"),
        ("ナンバープレート", "shift_jis"),
        ("目标", "utf-16"),
        ("thing", "utf-16-le"),
        ("目标", "utf-8-sig"),
        ("café", "utf-8"),
    ],
)
def test_encodings(tmp_path: Path, text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding)) == text
    write(tmp_path / "labels/0.txt", yolo(draw(tmp_path / "images/0.jpg", 0)))
    write(tmp_path / "classes.txt", f"{text}\r\n", encoding)
    records, problems, reader = load(tmp_path)
    assert (problems, reader.categories) == ([], [text])
    check_red(records)


@pytest.mark.parametrize(
    ("encoding", "label"), [("GB2312", "目标"), ("Shift_JIS", "ナンバー"), ("ISO-8859-1", "véhicule"), ("UTF-16", "目")]
)
def test_declared_encodings_of_xml(tmp_path: Path, encoding: str, label: str) -> None:
    text = voc("0.jpg", draw(tmp_path / "0.jpg", 0), label=label)
    write(tmp_path / "0.xml", f'<?xml version="1.0" encoding="{encoding}"?>\r\n{text}', encoding)
    records, problems, reader = load(tmp_path)
    assert (problems, reader.categories) == ([], [label])
    check_red(records)


def test_an_ampersand_that_is_not_escaped(tmp_path: Path) -> None:
    write(tmp_path / "0.xml", voc("0.jpg", draw(tmp_path / "0.jpg", 0), label="nuts & bolts"))
    _, problems, reader = load(tmp_path)
    assert (problems, reader.categories) == ([], ["nuts & bolts"])


SIZES = ["", "<size><width>0</width><height>0</height></size>", "<size><width>?</width><height>-1</height></size>"]


@pytest.mark.parametrize("size", [*SIZES, f"<size><width>{WIDTH}.0</width><height>{HEIGHT}.0</height></size>"])
def test_sizes_that_say_nothing(tmp_path: Path, size: str) -> None:
    write(tmp_path / "0.xml", voc("C:\\Users\\me\\0.jpg", draw(tmp_path / "0.jpg", 0), size))
    records, problems, _ = load(tmp_path)
    assert problems == []
    check_red(records)


@pytest.mark.parametrize("word", ["Unspecified", "0", "", "False", "no"])
def test_words_that_are_no_difficult(tmp_path: Path, word: str) -> None:
    write(tmp_path / "0.xml", voc("0.jpg", draw(tmp_path / "0.jpg", 0), more=f"<difficult>{word}</difficult>"))
    assert not load(tmp_path)[0][0].ignore.any()


@pytest.mark.parametrize("tag", ["difficult", "Difficult"])
@pytest.mark.parametrize("word", ["1", "True", "yes"])
def test_words_that_are(tmp_path: Path, tag: str, word: str) -> None:
    write(tmp_path / "0.xml", voc("0.jpg", draw(tmp_path / "0.jpg", 0), more=f"<{tag}>{word}</{tag}>"))
    assert load(tmp_path)[0][0].ignore.all()
    assert not load(tmp_path, difficult="keep")[0][0].ignore.any()


def test_every_box_of_an_object_and_a_polygon_count(tmp_path: Path) -> None:
    (x, y, w, h), second = draw(tmp_path / "0.jpg", 0)
    text = voc("0.jpg", [second]).replace("<object>", "<object><!-- two -->")
    points = ((x + 1, y + 1), (x + w, y + 1), (x + w, y + h))
    corners = "".join(f"<x{n}>{a}</x{n}><y{n}>{b}</y{n}>" for n, (a, b) in enumerate(points, 1))
    write(
        tmp_path / "0.xml",
        text.replace("</annotation>", f"<object><name>thing</name><polygon>{corners}</polygon></object></annotation>"),
    )
    check_red(load(tmp_path)[0])


SUFFIXES = [".jfif", ".JPEG", ".png", ".gif", ".tif", ".TIFF", ".bmp", ".webp", ".jp2", ".ppm", ".avif"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_picture_that_decodes_is_an_image(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "labels/deep/0.txt", yolo(draw(tmp_path / f"images/deep/0{suffix}", 0)))
    records, problems, _ = load(tmp_path)
    assert problems == []
    check_red(records)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_images_are_scaled_by_the_bits_that_they_use(tmp_path: Path, bits: int, suffix: str) -> None:
    image, boxes = scene(0)
    deep = image.astype(np.uint16) << (bits - 8)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / f"images/0{suffix}"), deep[..., 0])
    write(tmp_path / "labels/0.txt", yolo(boxes))
    records, _, reader = load(tmp_path)
    np.testing.assert_array_equal(read_image(records[0])[..., 0], image[..., 0])
    assert "1 image of more than 8 bits: scaled by the bits they use" in reader.taken()


def test_floats_are_shares_or_grey_levels() -> None:
    assert eight_bits(np.array([0, 0.5, 1, np.nan])).tolist() == [0, 127, 255, 0]
    assert eight_bits(np.array([0, 100.0, 255])).tolist() == [0, 100, 255]
    assert eight_bits(np.array([-3.0, 500, 1000])).tolist() == [0, 127, 255]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("C:\\a\\b.jpg", ["a", "b.jpg"]),
        ("\\\\host\\share\\b.jpg", ["b.jpg"]),
        ("/a/./b.jpg", ["a", "b.jpg"]),
        ("../x/../b c.jpg", ["b c.jpg"]),
        ("https://host/a/b.jpg?x=1", ["host", "a", "b.jpg"]),
        ("2020.01.02 10.15", ["2020.01.02 10.15"]),
    ],
)
def test_parts_of_names(name: str, parts: list[str]) -> None:
    assert parts_of(name)[-len(parts) :] == parts


def test_the_built_in_images_are_drawn_into_no_folder_of_anybodys(tmp_path: Path) -> None:
    draw(tmp_path / "mine.jpg", 0)
    reader = SyntheticReader(num_train=1, num_val=1, root=tmp_path)
    with pytest.raises(DataError, match=r"holds other things \(mine\.jpg\)"):
        reader.read("train")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.jpg"]
    assert len(SyntheticReader(num_train=1, num_val=1, root=tmp_path / "own").read("train")[0]) == 1
