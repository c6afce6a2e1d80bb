"""The synthetic data set keeps to its settings, its boxes to their objects, and its cache to one drawing."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorlab.data import painting, synthetic
from anchorlab.data.synthetic import Recipe, SyntheticReader, draw_image

SIZE = (96, 144)
RECIPE = Recipe(
    image_size=SIZE,
    boxes_per_image=(1, 4),
    sizes=(10, 60),
    ratios=(0.5, 1.0, 2.0),
    ratio_jitter=0.1,
    kinds=tuple(painting.SHAPES),
    occlusion=0.4,
    clutter=3,
    noise=4.0,
)


def scenes(count: int, **changes) -> list[synthetic.SyntheticImage]:
    recipe = replace(RECIPE, **changes)
    return [draw_image(recipe, np.random.default_rng([7, index])) for index in range(count)]


def sides(some: list[synthetic.SyntheticImage]) -> tuple[np.ndarray, np.ndarray]:
    """Heights and widths of every box."""
    boxes = np.concatenate([scene.boxes for scene in some])
    return boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]


def reader(root: Path, **changes) -> SyntheticReader:
    return SyntheticReader(
        **{"num_train": 3, "num_val": 2, "image_size": SIZE, "sizes": (10, 60), **changes}, root=root
    )


# ---------------------------------------------------------------------------------------- what is in an image


def test_number_of_objects_covers_its_range_evenly():
    counts = np.bincount([len(scene.boxes) for scene in scenes(120, boxes_per_image=(0, 3), sizes=(8, 20))])
    assert len(counts) == 4
    assert counts.min() > 15  # 30 expected of each


def test_boxes_lie_inside_the_image():
    for scene in scenes(40):
        assert scene.image.shape == (*SIZE, 3)
        assert scene.image.dtype == np.uint8
        assert (scene.boxes[:, :2] >= 0).all()
        assert (scene.boxes[:, 2:] <= (SIZE[1], SIZE[0])).all()


def test_sizes_are_log_uniform():
    height, width = sides(scenes(80, kinds=("bar",), ratios=(1.0,), sizes=(10, 80)))
    size = np.sqrt(height * width)
    assert size.min() >= 9.5  # sides are whole pixels
    assert size.max() <= 80.5
    quartiles = np.quantile(np.log(size / 10) / np.log(8), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [0.25, 0.5, 0.75], atol=0.12)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_one_override_plants_objects_of_that_ratio(ratio):
    height, width = sides(scenes(30, ratios=(ratio,), ratio_jitter=0.0, kinds=("bar", "ellipse", "blob")))
    off_by_rounding = np.log((height + 1) / (width - 1)) - np.log(height / width)
    assert (np.abs(np.log(height / width / ratio)) <= off_by_rounding + 1e-9).all()


def test_jitter_spreads_a_ratio_evenly():
    height, width = sides(scenes(80, kinds=("bar",), ratios=(1.0,), ratio_jitter=2.0, sizes=(20, 40)))
    spread = np.log(height / width) / np.log(3)
    assert np.abs(spread).max() <= 1.1
    np.testing.assert_allclose(np.quantile(spread, [0.25, 0.5, 0.75]), [-0.5, 0, 0.5], atol=0.25)


def test_a_size_too_large_for_the_image_at_its_ratio_is_lowered_to_what_fits():
    height, _ = sides(scenes(30, ratios=(4.0,), ratio_jitter=0.0, sizes=(40, 400), boxes_per_image=(1, 1)))
    assert height.max() <= SIZE[0]


def test_visible_area_keeps_to_the_allowed_occlusion():
    bars = {"kinds": ("bar",), "sizes": (20, 50), "ratios": (1.0,), "boxes_per_image": (1, 6)}
    for occlusion, some_are_hidden in ((0.0, False), (0.5, True)):
        shown = []
        for scene in scenes(30, occlusion=occlusion, **bars):
            extent = (scene.boxes[:, 2:] - scene.boxes[:, :2]).prod(axis=1)
            shown.extend(scene.area / extent)  # a whole bar fills 90 % of its box or more
        assert min(shown) >= (1 - occlusion) * 0.9
        assert bool(min(shown) < 0.85) == some_are_hidden


def test_images_differ_only_by_their_generator():
    one, same, other = (draw_image(RECIPE, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.image, same.image)
    np.testing.assert_array_equal(one.boxes, same.boxes)
    assert (one.image != other.image).mean() > 0.5


# ------------------------------------------------------------------------------------------------ exact boxes


@settings(max_examples=150)
@given(
    kind=st.sampled_from(sorted(painting.SHAPES)),
    size=st.tuples(st.integers(4, 90), st.integers(4, 90)),
    seed=st.integers(0, 2**31),
)
def test_a_mask_fills_its_frame_on_all_four_sides(kind, size, seed):
    mask = painting.rasterise(painting.outline(kind, np.random.default_rng(seed)), size)
    solid = mask >= painting.COVERED
    for edge in (solid[0], solid[-1], solid[:, 0], solid[:, -1]):
        assert edge.any()
    lost = np.subtract(size, mask.shape)
    assert (lost >= 0).all()
    assert (lost <= 2 + np.array(size) / 4).all()  # spikes end where they are half a pixel thin


@pytest.mark.parametrize("kind", sorted(painting.SHAPES))
def test_paint_covers_the_box_and_nothing_else(kind):
    """On black, where shadows do not show, every pixel that changes belongs to the object."""
    rng = np.random.default_rng(3)
    for corner in ((0, 0), (17, 40), (96 - 31, 144 - 22)):
        mask = painting.rasterise(painting.outline(kind, rng), (31, 22))
        picture = np.zeros((*SIZE, 3), np.float32)
        painting.paint_object(picture, mask, corner, rng)
        rows, columns = np.nonzero(picture.max(axis=2) > 1)
        assert (rows.min(), columns.min()) == corner
        assert (rows.max() + 1 - rows.min(), columns.max() + 1 - columns.min()) == mask.shape


def test_scene_boxes_are_the_extents_of_what_is_painted(monkeypatch):
    """Each object is painted as a flat value of its own, on black, without the camera."""
    painted = []

    def flat(picture, mask, corner, rng):
        painted.append(np.zeros(SIZE))
        painted[-1][corner[0] : corner[0] + mask.shape[0], corner[1] : corner[1] + mask.shape[1]] = mask
        picture[painted[-1] >= painting.COVERED] = len(painted)

    monkeypatch.setattr(painting, "background", lambda size, rng: np.zeros((*size, 3), np.float32))
    monkeypatch.setattr(painting, "scatter_clutter", lambda *_: None)
    monkeypatch.setattr(painting, "develop", lambda picture, *_: picture.astype(np.uint8))
    monkeypatch.setattr(painting, "paint_object", flat)
    for seed in range(10):
        scene = draw_image(RECIPE, np.random.default_rng(seed))
        for index, (box, area) in enumerate(zip(scene.boxes, scene.area, strict=True)):
            rows, columns = np.nonzero(painted[index] >= painting.COVERED)
            np.testing.assert_array_equal(box, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert area == (scene.image[..., 0] == index + 1).sum()
        painted.clear()


# ---------------------------------------------------------------------------------------- files and the cache


def test_reads_like_any_data_set(tmp_path):
    data = reader(tmp_path)
    assert data.splits() == ["train", "val"]
    assert data.categories == list(painting.SHAPES)
    records, problems = data.read("train")
    assert not problems
    assert len(records) == 3
    for record in records:
        assert np.asarray(cv2.imread(str(record.path))).shape == (record.height, record.width, 3) == (*SIZE, 3)
        assert not record.ignore.any()
        assert (record.area <= (record.boxes[:, 2:] - record.boxes[:, :2]).prod(axis=1)).all()
    assert len(data.read("val")[0]) == 2


def test_images_without_objects_and_a_set_without_validation(tmp_path):
    data = reader(tmp_path, boxes_per_image=(0, 0), num_val=0)
    assert data.splits() == ["train"]
    assert [record.boxes.shape for record in data.read("train")[0]] == [(0, 4)] * 3


def test_same_seed_same_bytes_and_another_seed_another_folder(tmp_path):
    first, second, other = reader(tmp_path / "a"), reader(tmp_path / "b"), reader(tmp_path / "a", seed=1)
    for data in (first, second, other):
        data.read("train")
    files = sorted(path.relative_to(first.folder) for path in first.folder.rglob("*.*"))
    assert len(files) == 3 + 2 + 2
    for file in files:
        assert (first.folder / file).read_bytes() == (second.folder / file).read_bytes()
    assert first.folder != other.folder
    assert (first.folder / files[0]).read_bytes() != (other.folder / files[0]).read_bytes()


def test_more_images_leave_the_first_as_they_were(tmp_path):
    few, many = reader(tmp_path), reader(tmp_path, num_train=4)
    for ours, theirs in zip(few.read("train")[0], many.read("train")[0], strict=False):
        assert ours.path != theirs.path
        assert ours.path.read_bytes() == theirs.path.read_bytes()


def test_every_setting_has_a_folder_of_its_own(tmp_path):
    changes = [
        {"num_train": 4},
        {"num_val": 3},
        {"image_size": (100, 144)},
        {"boxes_per_image": (2, 8)},
        {"sizes": (11, 60)},
        {"ratios": (1.0,)},
        {"ratio_jitter": 0.0},
        {"kinds": ("bar",)},
        {"occlusion": 0.1},
        {"clutter": 0},
        {"noise": 0.0},
        {"seed": 5},
    ]
    assert len({reader(tmp_path, **change).folder for change in [{}, *changes]}) == len(changes) + 1


def test_is_drawn_once(tmp_path, monkeypatch):
    reader(tmp_path).read("train")
    monkeypatch.setattr(synthetic, "draw_image", lambda *_: pytest.fail("drawn again"))
    assert len(reader(tmp_path).read("val")[0]) == 2


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SyntheticReader(root="~/cache").folder.is_relative_to(tmp_path / "cache")


def test_a_drawing_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(synthetic, "_write_jpeg", full_disk)
    with pytest.raises(OSError, match="no space left"):
        reader(tmp_path).read("train")
    assert not list(tmp_path.iterdir())


def test_the_slower_of_two_takes_what_the_faster_drew(tmp_path):
    faster, slower = reader(tmp_path), reader(tmp_path)
    paths = [record.path for record in faster.read("train")[0]]
    before = [path.stat().st_mtime_ns for path in paths]
    slower._draw_once()  # it had looked before the faster one was done
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert list(tmp_path.iterdir()) == [faster.folder]


def test_two_processes_may_start_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        paths = pool.map(_first_path, [tmp_path] * 2, chunksize=1)
    assert paths[0] == paths[1]
    assert [path.name for path in tmp_path.iterdir()] == [reader(tmp_path).folder.name]


def _first_path(root: Path) -> Path:
    return reader(root).read("train")[0][0].path


def test_pycocotools_reads_the_same_boxes(tmp_path):
    from pycocotools.coco import COCO

    data = reader(tmp_path)
    records, _ = data.read("train")
    coco = COCO(data.folder / "train.json")
    for record, image_id in zip(records, coco.getImgIds(), strict=True):
        theirs = coco.loadAnns(coco.getAnnIds(image_id))
        np.testing.assert_array_equal(record.area, [one["area"] for one in theirs])
        xywh = np.array([one["bbox"] for one in theirs])
        np.testing.assert_array_equal(record.boxes, np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]))
    assert json.loads((data.folder / "train.json").read_text())["categories"][0] == {
        "id": 1,
        "name": "ellipse",
    }


# --------------------------------------------------------------------------------------------- wrong settings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_train", 0),
        ("num_val", -1),
        ("seed", -1),
        ("image_size", (8, 144)),
        ("image_size", (96,)),
        ("boxes_per_image", (3, 2)),
        ("sizes", (40, 20)),
        ("sizes", (3, 20)),  # thinner than 4 pixels
        ("sizes", (90, 120)),  # larger than the image at ratio 2
        ("ratios", ()),
        ("ratios", (0.0, 1.0)),
        ("ratio_jitter", -0.1),
        ("kinds", ()),
        ("kinds", ("ellipse", "square")),
        ("occlusion", 1.0),
        ("clutter", -1),
        ("noise", -1.0),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_its_key(tmp_path, key, value):
    with pytest.raises(ValueError, match=rf"^(data\.reader\.)?{key}=[^\n]*$"):
        reader(tmp_path, **{key: value})


def test_more_objects_than_fit_are_refused(tmp_path):
    crowded = reader(tmp_path, boxes_per_image=(9, 9), sizes=(50, 60), ratios=(1.0,), occlusion=0.0)
    with pytest.raises(ValueError, match=r"data\.reader\.boxes_per_image=\(9, 9\).*found a place"):
        crowded.read("train")
    assert not list(tmp_path.iterdir())
