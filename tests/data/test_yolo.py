"""YOLO's labels: shares to pixels and back, names of classes, folders, every fault named."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchorlab.data.sample import DataError
from anchorlab.data.yolo import YoloReader

SIZE = (30, 50)  # height, width


@pytest.fixture
def write_yolo(tmp_path, write_image):
    """`write(stem, text, images, labels)` adds an image and its label (None: no file) to the data set in `tmp_path`."""

    def write(stem: str, text: str | None, images: str = "images", labels: str = "labels") -> None:
        write_image(tmp_path / images / f"{stem}.jpg", *SIZE)
        (tmp_path / labels).mkdir(parents=True, exist_ok=True)
        if text is not None:
            (tmp_path / labels / f"{stem}.txt").write_text(text)

    return write


def test_shares_become_pixels(tmp_path, write_yolo):
    write_yolo("a", "7 0.5 0.5 1 1\n2 0.2 0.4 0.2 0.1\n\n")
    reader = YoloReader(root=tmp_path)
    (record,), problems = reader.read("train")
    assert problems == []
    np.testing.assert_allclose(record.boxes, [[0, 0, 50, 30], [5, 10.5, 15, 13.5]])
    assert record.area == pytest.approx([1500, 30])
    assert record.image_id == "a"
    assert reader.categories == ["7", "2"]  # no names: their numbers
    assert record.category.tolist() == [0, 1]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_boxes_survive_six_decimals(tmp_path, write_yolo, data):
    height, width = SIZE
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    write_yolo("a", "0 " + " ".join(f"{share:.6f}" for share in shares))
    (record,), problems = YoloReader(root=tmp_path).read("train")
    assert problems == []
    np.testing.assert_allclose(record.boxes, [[x1, y1, x2, y2]], atol=0.01)


@pytest.mark.parametrize("text", [None, "", "\n"])
def test_an_image_without_objects(tmp_path, write_yolo, text):
    write_yolo("a", text)
    write_yolo("b", "0 0.5 0.5 1 1")
    (record, _), problems = YoloReader(root=tmp_path).read("train")
    assert problems == []
    assert record.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.yaml", "names: [cat, dog]"),
        ("data.yaml", "path: ../elsewhere\nnames:\n  0: cat\n  1: dog\n"),
        ("classes.txt", "cat\ndog\n"),
    ],
)
def test_names_of_classes(tmp_path, write_yolo, name, text):
    write_yolo("a", "1 0.5 0.5 1 1\n2 0.5 0.5 1 1")
    (tmp_path / name).write_text(text)
    reader = YoloReader(root=tmp_path)
    (record,), (problem,) = reader.read("train")
    assert reader.categories == ["cat", "dog"]
    assert record.category.tolist() == [1]
    assert (problem.id, problem.message) == ("image a, line 2", "unknown class 2")


def test_numbers_of_classes_need_not_be_dense(tmp_path, write_yolo):
    write_yolo("a", "5 0.5 0.5 1 1")
    (tmp_path / "data.yaml").write_text("names: {3: cat, 5: dog}")
    reader = YoloReader(root=tmp_path)
    (record,), _ = reader.read("train")
    assert reader.categories[record.category[0]] == "dog"


@pytest.mark.parametrize(
    ("images", "labels", "arguments"),
    [
        ("images/{}", "labels/{}", {}),
        ("{}/images", "{}/labels", {}),
        ("photos/{}", "boxes/{}", {"images": "photos/{split}", "annotations": "boxes/{split}"}),
    ],
)
def test_a_pair_of_folders_per_split(tmp_path, write_yolo, images, labels, arguments):
    for split in ("train", "valid"):
        write_yolo(split, "0 0.5 0.5 1 1", images.format(split), labels.format(split))
    reader = YoloReader(val="valid", root=tmp_path, **arguments)
    assert reader.splits() == ["train", "val"]
    (record,), _ = reader.read("val")
    assert record.image_id == "valid"


def test_splits_under_names_of_years(tmp_path, write_yolo):
    write_yolo("a", "0 0.5 0.5 1 1", "images/train2017", "labels/train2017")
    assert len(YoloReader(root=tmp_path).read("train")[0]) == 1


@pytest.mark.parametrize(
    "line",
    [
        "0 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6",  # a polygon, or an oriented box
        "0 0.1 0.2 0.5 0.2 0.5 0.6",  # a triangle
        "0.0 0.3 0.4 0.4 0.4",
        "0.000000e+00 3.0e-1 4.0e-1 4.0e-1 4.0e-1",
        "0 0.3 0.4 0.4 0.4 0.912",  # a confidence
        "0 0.3 0.4 0.4 0.4 0.5 0.5 2 0.4 0.4 1",  # keypoints
        "0,0.3,0.4,0.4,0.4",
        "0 0,3 0,4 0,4 0,4",  # decimal commas
        "0, 0.3, 0.4, 0.4, 0.4",
        "0\t0.3\t0.4\t0.4\t0.4",
    ],
)
def test_other_ways_to_write_a_line(tmp_path, write_yolo, line):
    write_yolo("a", f"{line}\n{line}\n")
    (record,), problems = YoloReader(root=tmp_path).read("train")
    np.testing.assert_allclose(record.boxes, [[5, 6, 25, 18]], atol=1e-9)
    assert [problem.message for problem in problems] == ["the same line again, counted once"]
    assert problems[0].harmless


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("0 25 15 20 20", "are pixels, where YOLO's are shares"),
        ("0 0.6 0.6 0.99 0.99", "none if their four numbers are the corners"),
    ],
)
def test_another_format_as_a_whole_is_one_sentence(tmp_path, write_yolo, line, sentence):
    write_yolo("a", line)
    write_yolo("b", line)
    with pytest.raises(DataError, match=sentence) as caught:
        YoloReader(root=tmp_path).read("train")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.1 0.1 0.2", "4 fields"),
        ("0 0.5 0.5 1 1 0.5 0.5 0.5", "8 fields"),
        ("dog 0.5 0.5 1 1", "'dog' is no class number"),
        ("0.5 0.5 0.5 1 1", "'0.5' is no whole class number"),
        ("-1 0.5 0.5 1 1", "unknown class -1"),
        ("0 0.5 x 1 1", "'x' is no number"),
        ("0 0.5 0.5 0 1", "zero-area box"),
        ("0 0.5 0.5 -1 1", "inverted box"),
        ("0 nan 0.5 1 1", "box is not finite"),
        ("0 2.5 0.5 0.2 0.2", "box outside its image"),
        ("0 0.9 0.5 0.4 1", "box reaches beyond its image"),
    ],
)
def test_a_bad_line_is_named(tmp_path, write_yolo, line, message):
    write_yolo("a", f"0 0.5 0.5 1 1\n{line}\n")
    (record,), (problem,) = YoloReader(root=tmp_path).read("train")
    assert problem.message.startswith(message)
    assert (problem.file, problem.id) == (tmp_path / "labels/a.txt", "image a, line 2")
    assert record.boxes[0].tolist() == [0, 0, 50, 30]


def test_bad_images_and_labels_without_an_image(tmp_path, write_yolo):
    write_yolo("a", "0 0.5 0.5 1 1")
    write_yolo("b", "0 0.5 0.5 1 1")
    (tmp_path / "images/a.jpg").write_bytes(b"no image")
    (tmp_path / "labels/c.txt").write_text("")
    records, problems = YoloReader(root=tmp_path).read("train")
    assert [record.image_id for record in records] == ["b"]
    assert [problem.message.split(":")[0] for problem in problems] == ["unreadable or truncated image"]


def test_a_data_yaml_that_is_none(tmp_path, write_yolo):
    write_yolo("a", "0 0.5 0.5 1 1")
    (tmp_path / "data.yaml").write_text("names: [")
    with pytest.raises(DataError, match="is no YAML"):
        YoloReader(root=tmp_path).read("train")


@pytest.mark.parametrize(
    ("name", "text", "category"),
    [
        ("data.yaml", "nc: 3", "2"),
        ("data.yaml", "nc: 3\nnames: [thing]", "2"),  # a class that has no name
        ("classes.txt", "a\n\nthing\n", "thing"),  # an empty line keeps its number
        ("labels/classes.txt", "a\nb\nthing", "thing"),
        ("_darknet.labels", "a\nb\nthing", "thing"),
    ],
)
def test_a_class_is_the_one_of_its_number(tmp_path, write_yolo, name, text, category):
    write_yolo("a", "2 0.5 0.5 1 1")
    (tmp_path / name).write_text(text)
    reader = YoloReader(root=tmp_path)
    (record,), problems = reader.read("train")
    assert problems == []
    assert reader.categories[record.category[0]] == category


def test_images_of_one_stem_are_two(tmp_path, write_yolo, write_image):
    write_yolo("a", "0 0.5 0.5 1 1")
    write_image(tmp_path / "images/a.png", *SIZE)
    records, problems = YoloReader(root=tmp_path).read("train")
    assert problems == []
    assert [record.image_id for record in records] == ["a.jpg", "a.png"]


def test_a_folder_that_holds_no_data(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        YoloReader(root=tmp_path).splits()
