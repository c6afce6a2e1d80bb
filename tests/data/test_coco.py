"""COCO's JSON: order, crowds and areas kept, folders found, every fault named."""

import json
from pathlib import Path
from typing import Any

import pytest

from anchorlab.data.coco import CocoReader
from anchorlab.data.sample import DataError

SIZE = (30, 50)  # height, width
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]


@pytest.fixture
def write_coco(write_image):
    """`write(file, images, annotations, folder)`: images given as {file name: id}; all of `SIZE`."""

    def write(file: Path, names: dict[str, Any], annotations: list[dict[str, Any]], folder: Path) -> None:
        for name in names:
            write_image(folder / name, *SIZE)
        images = [{"id": id, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for name, id in names.items()]
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))

    return write


def test_images_boxes_and_categories_in_the_order_of_the_file(tmp_path, write_coco):
    annotations = [
        _box(7, 5, [1, 2, 3, 4], category_id=3, area=6.5),
        _box(9, 2, [5, 6, 7.25, 8], iscrowd=1, area=1e3),
        _box(1, 5, [0, 0, 50, 30]),
    ]
    write_coco(tmp_path / "instances.json", {"b.jpg": 5, "sub/a.png": 2}, annotations, tmp_path / "images")
    reader = CocoReader(root=tmp_path)
    assert reader.splits() == ["train"]
    (first, second), problems = reader.read("train")
    assert problems == []
    assert reader.categories == ["dog", "car"]
    assert (first.image_id, second.image_id) == (5, 2)
    assert (first.height, first.width) == SIZE
    assert first.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 50, 30]]
    assert first.area.tolist() == [6.5, 1500]  # the annotation's, else the box's
    assert first.category.tolist() == [1, 0]
    assert second.ignore.tolist() == [True]
    assert second.boxes.tolist() == [[5, 6, 12.25, 14]]
    assert second.path == tmp_path / "images/sub/a.png"


def test_an_image_without_annotations_stays(tmp_path, write_coco):
    write_coco(tmp_path / "instances.json", {"a.jpg": 1}, [], tmp_path / "images")
    (record,), problems = CocoReader(root=tmp_path).read("train")
    assert record.boxes.shape == (0, 4)
    assert problems == []


@pytest.mark.parametrize(
    ("annotations", "images", "arguments"),
    [
        ("annotations/instances_{}2017.json", "{}2017", {}),  # as published
        ("{}.json", ".", {}),
        ("{}/coco.json", "{}", {"annotations": "{split}/coco.json", "images": "{split}"}),
    ],
)
def test_one_file_per_split(tmp_path, write_coco, annotations, images, arguments):
    for number, split in enumerate(("train", "val")):
        folder = tmp_path / images.format(split)
        write_coco(tmp_path / annotations.format(split), {f"{split}.jpg": number}, [], folder)
    reader = CocoReader(root=tmp_path, **arguments)
    assert reader.splits() == ["train", "val"]
    assert [record.image_id for record in reader.read("val")[0]] == [1]


def test_splits_under_names_of_their_own(tmp_path, write_coco):
    for split in ("a", "b"):
        write_coco(tmp_path / f"{split}.json", {f"{split}.jpg": split}, [], tmp_path / "images")
    reader = CocoReader("images", "{split}.json", train="a", val=None, test="b", root=tmp_path)
    assert reader.splits() == ["train", "test"]
    assert [record.image_id for record in reader.read("test")[0]] == ["b"]


@pytest.mark.parametrize(
    ("fault", "message", "value"),
    [
        ({"bbox": [1, 2, 0, 4]}, "zero-area box", (1, 2, 0, 4)),
        ({"bbox": [1, 2, 3, -4]}, "inverted box", (1, 2, 3, -4)),
        ({"bbox": [60, 2, 3, 4]}, "box outside its image", (60, 2, 3, 4)),
        ({"bbox": [1, 2, 3]}, "bbox is not", [1, 2, 3]),
        ({"bbox": [1, 2, None, 4]}, "bbox is not", [1, 2, None, 4]),
        ({"bbox": None}, "no bbox, and no polygon", None),
        ({"category_id": 4}, "unknown category id", 4),
        ({"image_id": 8}, "unknown image id", 8),
        ({"id": 1}, "the same annotation again", 1),
        ({"area": float("inf")}, "area inf", (1, 2, 3, 4)),
    ],
)
def test_a_bad_annotation_costs_itself_alone(tmp_path, write_coco, fault, message, value):
    annotations = [_box(1, 5, [1, 2, 3, 4]), {**_box(2, 5, [1, 2, 3, 4]), **fault}]
    write_coco(tmp_path / "instances.json", {"a.jpg": 5}, annotations, tmp_path / "images")
    (record,), (problem,) = CocoReader(root=tmp_path).read("train")
    assert record.boxes.tolist() == [[1, 2, 4, 6]]
    assert problem.message.startswith(message)
    assert problem.value == value
    assert problem.file == tmp_path / "instances.json"
    assert str(fault.get("id", 2)) in problem.id


def test_a_box_that_is_not_a_number(tmp_path, write_coco):
    annotations = [_box(1, 5, [1, 2, float("nan"), 4])]
    write_coco(tmp_path / "instances.json", {"a.jpg": 5}, annotations, tmp_path / "images")
    (record,), (problem,) = CocoReader(root=tmp_path).read("train")
    assert len(record.boxes) == 0
    assert problem.message == "box is not finite"


def test_a_bad_image_costs_the_image(tmp_path, write_coco, write_image):
    names = {"a.jpg": 1, "b.jpg": 2, "c.jpg": 3, "d.jpg": 3, "e.jpg": 5}
    write_coco(tmp_path / "instances.json", names, [_box(1, 2, [1, 2, 3, 4])], tmp_path / "images")
    (tmp_path / "images/a.jpg").unlink()
    (tmp_path / "images/b.jpg").write_bytes(b"no image")
    write_image(tmp_path / "images/e.jpg", 8, 9)
    records, problems = CocoReader(root=tmp_path).read("train")
    assert [record.path.name for record in records] == ["c.jpg"]
    kinds = ["unreadable or truncated", "duplicate image id", "1 of 5 images are not there", "image of 8 x 9"]
    assert [kind for kind in kinds if not any(p.message.startswith(kind) for p in problems)] == []
    assert len(problems) == len(kinds)


@pytest.mark.parametrize("name", ["../a.jpg", "/{}/a.jpg", "../../../../etc/passwd"])
def test_no_name_leads_out_of_the_folder(tmp_path, write_coco, write_image, name):
    root = tmp_path / "data"
    write_coco(root / "instances.json", {}, [], root)
    write_image(tmp_path / "a.jpg", *SIZE)
    write_image(root / "images/b.jpg", *SIZE)
    content = json.loads((root / "instances.json").read_text())
    content["images"] = [{"id": 1, "file_name": name.format(tmp_path)}, {"id": 2, "file_name": "b.jpg"}]
    (root / "instances.json").write_text(json.dumps(content))
    records, (problem,) = CocoReader(root=root).read("train")
    assert [record.image_id for record in records] == [2]
    assert problem.message.startswith("1 of 2 images are not there")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no JSON"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4]}]', "is a bare list, as of annotations or results"),
        ('{"images": {}, "annotations": []}', "'images' is not a list of objects with 'id'"),
        ('{"images": [{"id": 1}], "annotations": [{}]}', "'annotations' is not a list of objects with 'image_id'"),
        ('{"images": [{"id": 1}]}', "has images and no annotations"),
    ],
)
def test_a_file_that_is_not_cocos(tmp_path, text, sentence):
    (tmp_path / "images").mkdir()
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(DataError, match=sentence):
        CocoReader("images", "instances.json", root=tmp_path).read("train")


def test_a_folder_that_holds_no_data(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        CocoReader(root=tmp_path).splits()
    with pytest.raises(DataError, match=r"holds no images/ with a\.json: set data\.reader\.images"):
        CocoReader("images", "a.json", root=tmp_path).splits()
    with pytest.raises(DataError, match=r"does not lie below data\.root"):
        CocoReader("../images", "a.json", root=tmp_path).splits()
    with pytest.raises(DataError, match="does not exist"):
        CocoReader(root=tmp_path / "nowhere").splits()


def _box(id: int, image_id: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    return {"id": id, "image_id": image_id, "bbox": bbox, "category_id": 18, **more}
