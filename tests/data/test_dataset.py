"""What one image becomes, and the order of an epoch: functions of (seed, epoch, index), whatever the processes do."""

from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anchorlab.data.dataset import EpochSampler, ImageDataset
from anchorlab.data.decode import decode
from anchorlab.data.loader import Loader
from anchorlab.data.sample import DataError, Record, Sample

SIZE = (24, 40)  # height, width


@pytest.fixture
def records(tmp_path, write_image) -> list[Record]:
    return [_record(write_image(tmp_path / f"{n}.png", *SIZE, grey=10 * n), n) for n in range(5)]


def test_an_item_is_resized_and_remembers_its_original(records):
    item = ImageDataset(records, short=None, long=30)[3]
    assert item.sample.image.shape == (18, 30, 3)
    assert (item.sample.image == 30).all()
    assert item.scale == (0.75, 0.75)
    assert (item.index, item.sample.image_id) == (3, 3)
    np.testing.assert_allclose(item.sample.boxes, [[0, 1.5, 15, 18]])
    assert item.target is not None
    assert item.target.boxes.tolist() == [[-0.5, 2, 20, 24]]  # as written: recall scores these


def test_pixels_are_rgb_and_never_turned(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # Orientation: turn by 90 degrees
    Image.new("RGB", (40, 24), (255, 0, 0)).save(tmp_path / "a.jpg", exif=exif)
    sample = decode(_record(tmp_path / "a.jpg", 0))
    assert sample.image.shape == (*SIZE, 3)
    assert sample.image.reshape(-1, 3).mean(axis=0) == pytest.approx([255, 0, 0], abs=3)


def test_an_image_that_went_bad_is_named(records, write_image):
    write_image(records[2].path, 9, 9)
    with pytest.raises(DataError, match=r"2\.png: image 2: has 9 x 9 pixels .* since it was checked"):
        decode(records[2])
    records[2].path.write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.png: image 2: cannot be decoded"):
        decode(records[2])
    records[2].path.unlink()
    with pytest.raises(DataError, match=r"2\.png: image 2: No such file"):
        decode(records[2])


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_image_is_an_error_and_no_grey_half(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"image 0: .*truncated"):
        decode(_record(path, 0))
    path.write_bytes(whole + b"a note behind the image")
    assert decode(_record(path, 0)).image.shape == (*SIZE, 3)


def test_augmented_items_differ_by_epoch_and_index_alone(records):
    first, second = _augmented(records, seed=0), _augmented(records, seed=0)
    noise = {(epoch, row): first[epoch, row].sample.image for epoch in (0, 1) for row in range(5)}
    for key in reversed(noise):
        np.testing.assert_array_equal(second[key].sample.image, noise[key])
    assert len({image.tobytes() for image in noise.values()}) == 10
    assert not np.array_equal(_augmented(records, seed=1)[0, 0].sample.image, noise[0, 0])
    assert first[0].target is None


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_and_learn_of_new_epochs(records, workers):
    def epochs(num_workers: int) -> list[bytes]:
        sampler = EpochSampler(len(records), rank=0, num_replicas=1, seed=0)
        loader = Loader(_augmented(records, seed=0), sampler, 2, workers=num_workers)
        images = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            images += [batch.images.numpy().tobytes() for batch in loader]
        return images

    alone = epochs(0)
    assert len(set(alone)) == len(alone)
    assert epochs(workers) == alone


def test_augmentation_may_draw_other_images(records):
    def swap(sample: Sample, rng: np.random.Generator, draw) -> Sample:
        return draw(int(rng.integers(2**31)))

    dataset = ImageDataset(records, None, None, swap)
    assert {int(dataset[epoch, 0].sample.image_id) for epoch in range(30)} == set(range(5))


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(0, 9), st.integers(0, 9))
def test_processes_together_visit_what_one_alone_does(count, world, share, seed, epoch):
    batch_size = world * share
    order = _order(count, 0, 1, seed, epoch, batch_size)
    assert len(set(order)) == len(order) == (count // batch_size * batch_size or count)
    parts = [_order(count, rank, world, seed, epoch, batch_size) for rank in range(world)]
    batches = {max(1, len(part) // share) for part in parts}
    assert batches == {max(1, count // batch_size)}  # every process takes part in every step
    if count >= world:
        together = [row for step in zip_longest(*parts) for row in step if row is not None]
        assert together == order
    else:  # nobody is left without
        assert [len(part) for part in parts] == [1] * world


def test_the_rest_of_an_epoch_begins_behind_what_was_visited():
    whole = _order(12, 1, 2, 0, 3, batch_size=4)
    sampler = EpochSampler(12, 1, 2, seed=0, batch_size=4, visited=lambda: 2)
    sampler.set_epoch(3)
    assert [row for _, row in sampler] == whole[2:]
    assert len(sampler) == len(whole)  # of the epoch


def test_orders_differ_between_seeds_and_epochs():
    orders = {tuple(_order(20, 0, 1, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16  # seed 1, epoch 0 is not seed 0, epoch 1


def _order(count: int, rank: int, world: int, seed: int, epoch: int, batch_size: int = 1) -> list[int]:
    sampler = EpochSampler(count, rank, world, seed, batch_size)
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert len(keys) == len(sampler)
    assert {key[0] for key in keys} == {epoch}
    return [row for _, row in keys]


def _add_noise(sample: Sample, rng: np.random.Generator, draw) -> Sample:
    noise = rng.integers(0, 256, sample.image.shape, dtype=np.uint8)
    return Sample(noise, sample.boxes, sample.area, sample.category, sample.ignore, sample.image_id)


def _augmented(records: list[Record], seed: int) -> ImageDataset:
    return ImageDataset(records, None, None, _add_noise, seed)


def _record(path: Path, image_id: int) -> Record:
    return Record(
        image_id=image_id,
        path=path,
        height=SIZE[0],
        width=SIZE[1],
        boxes=np.array([[-0.5, 2, 20, 24]]),
        area=np.array([440.0]),
        category=np.array([0]),
        ignore=np.array([False]),
    )
