"""proposals.npz: what is kept is read back; the rank says which proposal found which box."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from anchorlab.runs.gallery import KEPT, NAME, GalleryImage, read_gallery, thumbnail, write_gallery


def scene(name: str, boxes: int, proposals: int) -> GalleryImage:
    rng = np.random.default_rng(boxes)
    image = thumbnail(rng.integers(0, 255, (40, 60, 3)).astype(np.uint8))
    found = rng.integers(0, 9, boxes).astype(np.int32)
    return GalleryImage(
        name, image, (40, 60), rng.random((boxes, 4)), found, rng.random((proposals, 4)), rng.random(proposals)
    )


def test_scenes_are_read_back(tmp_path):
    scenes = [scene("a", 3, 5), scene("<b>", 0, 0), scene("c", 1, KEPT + 20)]
    write_gallery(tmp_path, scenes)
    read = read_gallery(tmp_path)
    assert [one.image_id for one in read] == ["a", "<b>", "c"]
    for one, kept in zip(scenes, read, strict=True):
        assert (kept.image, kept.size) == (one.image, one.size)
        np.testing.assert_allclose(kept.boxes, one.boxes, rtol=1e-6)
        np.testing.assert_array_equal(kept.rank, one.rank)
        np.testing.assert_allclose(kept.proposals, one.proposals[:KEPT], rtol=1e-6)
        np.testing.assert_allclose(kept.scores, one.scores[:KEPT], rtol=1e-6)


def test_large_images_become_small_and_the_same_image_the_same_bytes():
    image = np.zeros((1000, 2000, 3), dtype=np.uint8)
    assert Image.open(BytesIO(thumbnail(image))).size == (480, 240)
    assert thumbnail(image) == thumbnail(image.copy())


def test_no_file_is_no_scenes_and_a_torn_one_is_named(tmp_path):
    assert read_gallery(tmp_path) == []
    (tmp_path / NAME).write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"proposals\.npz cannot be read"):
        read_gallery(tmp_path)
