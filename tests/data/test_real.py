"""Real data sets read as published, compared with pycocotools' and torchvision's own reading."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from defusedxml.ElementTree import fromstring
from pycocotools.coco import COCO
from torchvision.datasets import VOCDetection

from anchorlab.data.coco import CocoReader
from anchorlab.data.module import DataModule
from anchorlab.data.sample import DataError
from anchorlab.data.voc import CORNERS, VocReader


@pytest.mark.long
def test_bccd_names_its_two_boxes_without_area(real_data):
    data = _module(VocReader, real_data / "bccd/BCCD")
    with pytest.raises(DataError, match="2 problems") as caught:
        data.setup()
    message = str(caught.value)
    assert "BloodImage_00343, object 4 (RBC): zero-area box: (181.0, 329.0, 181.0, 329.0)" in message
    assert "BloodImage_00338, object 13 (RBC): zero-area box: (504.0, 337.0, 504.0, 337.0)" in message


def test_bccd_without_them(real_data):
    data = _module(VocReader, real_data / "bccd/BCCD", on_error="skip")
    data.setup()
    splits = [data.records(split) for split in ("train", "val", "test")]
    assert [len(records) for records in splits] == [205, 87, 72]
    assert sum(len(record.boxes) for records in splits for record in records) == 4888 - 2
    assert len(data.problems) == 2
    assert sorted(data.category_names) == ["Platelets", "RBC", "WBC"]


def test_voc_agrees_with_torchvisions_reading(real_data):
    root = real_data / "voc07"
    data = _module(VocReader, root)
    data.setup()
    assert (len(data.train_records), len(data.val_records), data.problems) == (1000, 300, [])
    for record in data.val_records:
        tree = fromstring((root / "Annotations" / f"{record.image_id}.xml").read_bytes())
        objects = VOCDetection.parse_voc_xml(tree)["annotation"]["object"]
        corners = [[float(node["bndbox"][corner]) for corner in CORNERS] for node in objects]
        np.testing.assert_array_equal(record.boxes, np.array(corners) - [1, 1, 0, 0])
        assert record.ignore.tolist() == [node["difficult"] == "1" for node in objects]
        assert [data.category_names[row] for row in record.category] == [node["name"] for node in objects]


def test_coco_agrees_with_pycocotools_reading(real_data):
    root = real_data / "coco128"
    reader = CocoReader(root=root)
    records, problems = reader.read("train")
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(root / "instances.json"))
    assert problems == []
    assert [record.image_id for record in records] == reference.getImgIds()
    assert reader.categories == [category["name"] for category in reference.loadCats(reference.getCatIds())]
    for record, image_id in zip(records, reference.getImgIds(), strict=True):
        annotations = reference.loadAnns(reference.getAnnIds(imgIds=[image_id]))
        expected = np.array([annotation["bbox"] for annotation in annotations], float).reshape(-1, 4)
        expected[:, 2:] += expected[:, :2]
        np.testing.assert_array_equal(record.boxes, expected)
        np.testing.assert_array_equal(record.area, [annotation["area"] for annotation in annotations])
        np.testing.assert_array_equal(record.ignore, [annotation["iscrowd"] == 1 for annotation in annotations])
        image = reference.imgs[image_id]
        assert (record.height, record.width) == (image["height"], image["width"])
    assert sum(len(record.boxes) for record in records) == 939
    assert sum(record.ignore.sum() for record in records) == 10


def test_coco_is_divided_and_served(real_data):
    data = _module(CocoReader, real_data / "coco128")
    data.setup()
    assert (len(data.train_records), len(data.val_records)) == (102, 26)
    batch = next(iter(data.train_dataloader()))
    assert batch.sizes.max() == 416
    for boxes, (height, width) in zip(batch.boxes, batch.sizes.tolist(), strict=True):
        assert (boxes >= 0).all()
        assert (boxes <= boxes.new_tensor([width, height, width, height]) + 1e-3).all()


def _module(reader, root: Path, **settings) -> DataModule:
    return DataModule(reader, str(root), workers=0, **settings)
