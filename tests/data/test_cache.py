"""Cached pixels are those from the files, made once by whoever is first, and never those of other files or settings."""

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from anchorlab.data.augment import Augmentation
from anchorlab.data.cache import GIB, PixelCache, open_cache
from anchorlab.data.dataset import ImageDataset
from anchorlab.data.decode import read_resized
from anchorlab.data.sample import Record

LONG = 32
SIZES = [(24, 40), (50, 20), (33, 33)]  # height, width
BYTES = 3 * (19 * 32 + 32 * 13 + 32 * 32)


@pytest.fixture
def records(tmp_path) -> list[Record]:
    return [_record(tmp_path / f"{n}.png", n, size) for n, size in enumerate(SIZES)]


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "caches"


def test_pixels_are_those_of_the_files(records, root):
    cache = _open(root, records)
    assert len(cache) == 3
    for row, record in enumerate(records):
        np.testing.assert_array_equal(cache[row], read_resized(record, None, LONG))
    copy = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(copy[1], cache[1])
    assert len(pickle.dumps(cache)) < BYTES / 2  # a process that is not forked maps the file itself


@pytest.mark.parametrize("augment", [None, Augmentation(mosaic=0.5, crop=0.5, flip=0.5, scale=[0.5, 2], colour=0.4)])
def test_items_are_the_same_with_and_without(records, root, augment):
    plain = ImageDataset(records, None, LONG, augment)
    cached = ImageDataset(records, None, LONG, augment, cache=_open(root, records))
    for epoch in range(4):
        for row in range(len(records)):
            ours, theirs = cached[epoch, row], plain[epoch, row]
            np.testing.assert_array_equal(ours.sample.image, theirs.sample.image)
            np.testing.assert_array_equal(ours.sample.boxes, theirs.sample.boxes)
            assert ours.scale == theirs.scale


def test_a_cache_is_read_and_not_made_again(records, root):
    folder = _open(root, records).folder
    made = (folder / "pixels.bin").stat().st_mtime_ns
    for record in records:
        os.chmod(record.path, 0)
    assert _open(root, records).folder == folder
    assert (folder / "pixels.bin").stat().st_mtime_ns == made


def test_anything_that_shapes_the_pixels_makes_another_cache(records, root, monkeypatch):
    folders = [_open(root, records).folder, _open(root, records[:2]).folder, _open(root, records, LONG + 1).folder]
    os.utime(records[0].path, ns=(0, 1))  # the same bytes, perhaps
    folders.append(_open(root, records).folder)
    with records[0].path.open("ab") as file:
        file.write(b"more")
    os.utime(records[0].path, ns=(0, 1))
    folders.append(_open(root, records).folder)
    monkeypatch.setattr(cv2, "__version__", "another decoder")
    folders.append(_open(root, records).folder)
    monkeypatch.setattr("anchorlab.data.cache.VERSION", -1)
    folders.append(_open(root, records).folder)
    assert len(set(folders)) == len(folders)


def test_bad_files_are_reported_and_can_be_left_out(records, root):
    records[1].path.write_bytes(b"")
    for _ in range(2):  # when it is made, and when it is found
        cache = _open(root, records)
        assert {row: str(problem) for row, problem in cache.problems.items()} == {
            1: f"{records[1].path}: image 1: cannot be decoded"
        }
        rest = cache.select([0, 2])
        assert len(rest) == 2
        np.testing.assert_array_equal(rest[1], read_resized(records[2], None, LONG))


def test_what_was_not_used_for_longest_makes_room(records, root):
    limit = 2.5 * BYTES / GIB
    first, second = (_open(root, records, long, limit).folder for long in (LONG, LONG - 1))
    os.utime(first / "index.json", (0, 0))
    os.utime(second / "index.json", (1, 1))
    assert _open(root, records, LONG, limit).folder == first  # used again: now the second is the oldest
    third = _open(root, records, LONG - 2, limit).folder
    assert [folder.is_dir() for folder in (first, second, third)] == [True, False, True]


def test_an_open_cache_survives_being_deleted(records, root):
    limit = 1.5 * BYTES / GIB
    cache = _open(root, records, LONG, limit)
    _open(root, records, LONG - 1, limit)
    assert not cache.folder.exists()
    np.testing.assert_array_equal(cache[0], read_resized(records[0], None, LONG))


def test_a_limit_that_is_too_small_is_one_sentence(records, root):
    with pytest.raises(ValueError, match=r"data\.cache_limit=1e-06 GiB is too small: .* take 5\.\d+e-06 GiB"):
        _open(root, records, LONG, 1e-6)
    kept = _open(root, records).folder
    with pytest.raises(ValueError, match=r"data\.cache_limit=.* take 1.*e-05 GiB"):
        open_cache(root, records[:2] + records, None, LONG, 1.2 * BYTES / GIB, keep=[kept])
    assert kept.is_dir()
    assert {path.name for path in root.iterdir()} == {kept.name, ".lock"}  # no draft is left behind


def test_a_folder_that_cannot_be_written(records, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"data\.cache_folder=.*file.* cannot be written"):
        _open(tmp_path / "file" / "caches", records)


def test_two_processes_fill_one_cache_once(records, root):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        folders = pool.starmap(_open_in_process, [(root, records)] * 2)
    assert len(set(folders)) == 1
    assert {path.name for path in root.iterdir()} == {folders[0].name, ".lock"}


def test_a_draft_of_a_killed_process_is_swept_away(records, root):
    draft = root / ".draft-killed"
    draft.mkdir(parents=True)
    (draft / "pixels.bin").write_bytes(b"half")
    (draft / "index.json").write_text(json.dumps({}))
    _open(root, records)
    assert not draft.exists()


def _open(root: Path, records: list[Record], long: int = LONG, limit: float = 1.0) -> PixelCache:
    return open_cache(root, records, None, long, limit)


def _open_in_process(root: Path, records: list[Record]) -> Path:
    return _open(root, records).folder


def _record(path: Path, image_id: int, size: tuple[int, int]) -> Record:
    pixels = np.random.default_rng(image_id).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    boxes = np.array([[2.0, 3, 15, 18]])
    return Record(image_id, path, *size, boxes, np.array([195.0]), np.array([0]), np.array([False]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "pixels.bin").write_bytes(b"x" * (BYTES // 2)),
        lambda folder: (folder / "pixels.bin").write_bytes(b"x" * BYTES),
        lambda folder: (folder / "index.json").write_text("[" * 100_000),
        lambda folder: (folder / "index.json").write_text("{}"),
        lambda folder: (folder / "index.json").write_bytes(b"\xff\xfe"),
        lambda folder: _pipe(folder / "pixels.bin"),
        lambda folder: _pipe(folder / "index.json"),
    ],
    ids=["half", "other pixels", "deep index", "empty index", "no text", "pixels a pipe", "index a pipe"],
)
def test_a_damaged_cache_gives_the_pixels_of_the_files(damage, records, root):
    damage(_open(root, records).folder)
    cache = _open(root, records)
    for row, record in enumerate(records):
        np.testing.assert_array_equal(cache[row], read_resized(record, None, LONG))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="becoming another user needs root")
def test_a_cache_of_another_user_is_read(records, root):
    folder = _open(root, records).folder
    reader, writer = os.pipe()
    for place in [root, *root.parents]:
        if place != Path("/") and place.stat().st_uid == 0 and str(place).startswith("/tmp/"):
            place.chmod(0o755)
    if (child := os.fork()) == 0:
        try:
            os.setuid(65534)
            os.write(
                writer, str(int(np.array_equal(_open(root, records)[0], read_resized(records[0], None, LONG)))).encode()
            )
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    assert os.read(reader, 1) == b"1"
    assert folder.is_dir()
