"""Images for a trained network: pictures of any kind, each in the frame that a viewer shows."""

import json
from pathlib import Path

import numpy as np
import pytest

from anchorlab.data.decode import read_image
from anchorlab.trained.images import list_images
from tests.data.drawing import HEIGHT, WIDTH, coco, draw, scene, write


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photograph_is_upright(tmp_path: Path, orientation: int) -> None:
    draw(tmp_path / "0.jpg", 0, orientation)
    record = list_images(str(tmp_path)).record(0)
    assert (record.height, record.width, record.orientation) == (HEIGHT, WIDTH, orientation)
    assert np.abs(read_image(record).astype(int) - scene(0)[0]).mean() < 8  # of JPEG


def test_every_picture_below_a_folder_is_listed(tmp_path: Path) -> None:
    names = ["a/0.avif", "a/1.gif", "a/2.jfif", "b/3.jp2", "b/4.ppm", "b/5.tif"]
    for seed, name in enumerate(names):
        draw(tmp_path / name, seed)
    write(tmp_path / "a/._0.jpg", "a Mac's")
    write(tmp_path / "a/notes.md", "to read")
    assert list_images(str(tmp_path)).ids == names


@pytest.mark.parametrize("annotated", [True, False])
def test_images_of_a_coco_file_with_boxes_or_without(tmp_path: Path, annotated: bool) -> None:
    content = coco([("0.jpg", draw(tmp_path / "images/0.jpg", 0)), ("gone.jpg", [])])
    if not annotated:
        del content["annotations"]
    write(tmp_path / "image_info_test-dev2017.json", json.dumps(content))
    for folder in (None, str(tmp_path / "images")):
        listed = list_images(str(tmp_path / "image_info_test-dev2017.json"), folder)
        assert (listed.ids, len(listed.known[0].boxes)) == ([1], 2 if annotated else 0)
        assert listed.problems[0].message.startswith("1 of 2 images are not there (gone.jpg)")
