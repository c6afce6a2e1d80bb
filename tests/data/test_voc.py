"""VOC's XML: corners from one, difficult and nested boxes, lists of splits, every fault named."""

from pathlib import Path

import numpy as np
import pytest

from anchorlab.data.sample import DataError
from anchorlab.data.voc import VocReader

SIZE = (30, 50)  # height, width
OBJECT = "<object><name>{}</name>{}<bndbox>{}</bndbox></object>"


@pytest.fixture
def write_voc(tmp_path, write_image):
    """`write(stem, objects, suffix, filename, size)` adds an image and its annotation to the data set in `tmp_path`."""

    def write(
        stem: str, *objects: str, suffix: str = ".jpg", filename: str | None = None, size: str | None = None
    ) -> None:
        write_image(tmp_path / "JPEGImages" / f"{stem}{suffix}", *SIZE)
        size = "<size><width>50</width><height>30</height></size>" if size is None else size
        text = f"<annotation><filename>{filename or stem + '.jpg'}</filename>{size}{''.join(objects)}</annotation>"
        folder = tmp_path / "Annotations"
        folder.mkdir(exist_ok=True)
        (folder / f"{stem}.xml").write_text(text)

    return write


def test_corners_count_from_one(tmp_path, write_voc):
    write_voc("a", _object("dog", 1, 2, 50, 30), _object("cat", 11, 5, 12, 9.5), _object("dog", 0, 0, 3, 3))
    reader = VocReader(root=tmp_path)
    (record,), problems = reader.read("train")
    assert problems == []
    # A 0, which tools write that count from 0, is the image's edge as well.
    assert record.boxes.tolist() == [[0, 1, 50, 30], [10, 4, 12, 9.5], [0, 0, 3, 3]]
    assert record.area.tolist() == [50 * 29, 2 * 5.5, 9]
    assert record.category.tolist() == [0, 1, 0]
    assert reader.categories == ["dog", "cat"]
    assert record.image_id == "a"


def test_parts_are_no_objects(tmp_path, write_voc):
    part = f"<part><name>head</name><bndbox>{_corners(3, 3, 9, 9)}</bndbox></part>"
    # Some files list the parts before the person's own box.
    person = f"<object><name>person</name>{part}<bndbox>{_corners(2, 2, 20, 20)}</bndbox>{part}</object>"
    write_voc("a", person)
    reader = VocReader(root=tmp_path)
    (record,), _ = reader.read("train")
    assert record.boxes.tolist() == [[1, 1, 20, 20]]
    assert reader.categories == ["person"]


@pytest.mark.parametrize(
    ("difficult", "count", "ignored"),
    [("ignore", 2, [True, False]), ("keep", 2, [False, False]), ("drop", 1, [False])],
)
def test_difficult_boxes(tmp_path, write_voc, difficult, count, ignored):
    write_voc("a", _object("dog", 1, 1, 9, 9, difficult=1), _object("dog", 2, 2, 9, 9, difficult=0))
    (record,), _ = VocReader(difficult=difficult, root=tmp_path).read("train")
    assert len(record.boxes) == count
    assert record.ignore.tolist() == ignored


def test_a_wrong_word_for_difficult(tmp_path):
    with pytest.raises(ValueError, match="difficult=ignored is not possible: it must be one of ignore, keep, drop"):
        VocReader(difficult="ignored", root=tmp_path)  # type: ignore[arg-type]


def test_splits_are_lists_of_stems(tmp_path, write_voc):
    for stem in "abc":
        write_voc(stem)
    _write_lists(tmp_path, train="c\na\n\n", trainval="a\nb\nc", val="b -1\n")
    reader = VocReader(root=tmp_path)
    assert reader.splits() == ["train", "val"]
    assert [record.image_id for record in reader.read("train")[0]] == ["c", "a"]
    assert [record.image_id for record in reader.read("val")[0]] == ["b"]
    assert VocReader(train="trainval", val=None, root=tmp_path).splits() == ["train"]


def test_without_lists_all_annotations_are_one_set(tmp_path, write_voc):
    for stem in "cab":
        write_voc(stem)
    reader = VocReader(root=tmp_path)
    assert reader.splits() == ["train"]
    assert [record.image_id for record in reader.read("train")[0]] == ["a", "b", "c"]


def test_lists_under_other_names_are_not_overlooked(tmp_path, write_voc):
    write_voc("a")
    _write_lists(tmp_path, fold1="a")
    with pytest.raises(DataError, match=r"holds none of train\.txt.*some of fold1"):
        VocReader(root=tmp_path).splits()


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".png"])
def test_the_image_is_found_by_its_stem(tmp_path, write_voc, suffix):
    write_voc("a", suffix=suffix, filename="renamed.jpg")
    (record,), _ = VocReader(root=tmp_path).read("train")
    assert record.path.name == f"a{suffix}"


def test_else_by_the_name_in_the_annotation(tmp_path, write_voc):
    write_voc("a")
    (tmp_path / "JPEGImages/a.jpg").rename(tmp_path / "JPEGImages/photo.jpg")
    (problem,) = VocReader(root=tmp_path).read("train")[1]
    assert problem.message.startswith("missing image; looked in ")
    write_voc("a", filename="photo.jpg")
    (tmp_path / "JPEGImages/a.jpg").unlink()
    (record,), _ = VocReader(root=tmp_path).read("train")
    assert record.path.name == "photo.jpg"


@pytest.mark.parametrize(
    ("box", "message", "value"),
    [
        ((5, 5, 5, 9), "zero-area box", (5, 5, 5, 9)),  # a pixel wide by VOC's count, nothing as written
        ((9, 5, 5, 9), "inverted box", (9, 5, 5, 9)),
        ((60, 5, 70, 9), "box outside its image", (60, 5, 70, 9)),
        ((1, 5, "nan", 9), "box is not finite", None),
        ((1, 5, "x", 9), "corners are not four numbers", ["1", "5", "x", "9"]),
    ],
)
def test_a_bad_box_costs_itself_alone(tmp_path, write_voc, box, message, value):
    write_voc("a", _object("dog", *box), _object("dog", 2, 2, 9, 9))
    (record,), (problem,) = VocReader(root=tmp_path).read("train")
    assert record.boxes.tolist() == [[1, 1, 9, 9]]
    assert problem.message.startswith(message)
    assert value is None or problem.value == value
    assert (problem.file, problem.id) == (tmp_path / "Annotations/a.xml", "image a, object 1 (dog)")


def test_a_box_far_beyond_the_image_is_reported_and_clipped(tmp_path, write_voc):
    write_voc("a", _object("dog", 41, 11, 52, 20))
    (record,), (problem,) = VocReader(root=tmp_path).read("train")
    assert record.boxes.tolist() == [[40, 10, 50, 20]]
    assert "reaches beyond" in problem.message


def test_a_bad_file_costs_the_image(tmp_path, write_voc):
    bomb = '<!DOCTYPE a [<!ENTITY b "c">]><annotation><filename>&b;</filename></annotation>'
    for stem in ("bomb", "cut", "fine", "nameless", "wrong"):
        write_voc(stem, _object("dog", 2, 2, 9, 9))
    write_voc("nameless", _object("", 2, 2, 9, 9))
    write_voc("wrong", size="<size><width>30</width><height>50</height></size>")
    (tmp_path / "Annotations/bomb.xml").write_text(bomb)
    (tmp_path / "Annotations/cut.xml").write_text("<annotation><object>")
    _write_lists(tmp_path, train="bomb\ncut\nfine\nfine\nmissing\nnameless\nwrong\n../a")
    records, problems = VocReader(root=tmp_path).read("train")
    assert [record.image_id for record in records] == ["fine", "nameless"]
    kinds = [
        "unreadable annotation",
        "unreadable annotation",
        "duplicate image id",
        "missing annotation",
        "object without a name",
        "image of 30 x 50 pixels",
        "missing annotation",
    ]
    assert len(problems) == len(kinds)
    for kind in kinds:
        assert any(problem.message.startswith(kind) for problem in problems), kind


def test_an_annotation_without_objects_and_size(tmp_path, write_voc):
    write_voc("a", size="")
    (record,), problems = VocReader(root=tmp_path).read("train")
    assert problems == []
    assert record.boxes.shape == (0, 4)
    assert record.boxes.dtype == np.float64


def test_folders_that_are_missing(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        VocReader(root=tmp_path).splits()
    with pytest.raises(DataError, match="holds no JPEGImages/ with Annotations"):
        VocReader("JPEGImages", "Annotations", root=tmp_path).read("train")


def _corners(*corners: object) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    return "".join(f"<{name}>{corner}</{name}>" for name, corner in zip(names, corners, strict=True))


def _object(name: str, *corners: object, difficult: int | None = None) -> str:
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return OBJECT.format(name, flag, _corners(*corners))


def _write_lists(root: Path, **lists: str) -> None:
    folder = root / "ImageSets/Main"
    folder.mkdir(parents=True)
    for name, text in lists.items():
        (folder / f"{name}.txt").write_text(text)
