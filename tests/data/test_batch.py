"""Padding, per-image views and the way back to original pixels."""

import math
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anchorlab.data.batch import Batch, Item, Target, collate, shared_memory_left
from anchorlab.data.sample import Sample

SIDE = st.integers(1, 40)
COUNT = st.integers(0, 3)


@pytest.fixture
def batch() -> Batch:
    return collate([_item(4, 6, 2, 0), _item(5, 3, 0, 1), _item(2, 2, 1, 2)])


def test_images_lie_top_left_and_padding_is_zero(batch):
    assert batch.images.shape == (3, 3, 5, 6)
    assert batch.images.dtype == torch.uint8
    assert batch.sizes.tolist() == [[4, 6], [5, 3], [2, 2]]
    for image, (height, width) in zip(batch.images, batch.sizes.tolist(), strict=True):
        assert (image[:, :height, :width] == 255).all()
        assert image.sum() == 3 * height * width * 255


def test_images_are_channels_last_in_memory(batch):
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


@given(st.lists(st.tuples(SIDE, SIDE, COUNT), min_size=1, max_size=4), st.sampled_from([1, 7, 32]))
def test_boxes_return_to_their_images(shapes, pad_to):
    items = [_item(height, width, count, row) for row, (height, width, count) in enumerate(shapes)]
    batch = collate(items, pad_to)
    assert batch.images.shape[2] % pad_to == batch.images.shape[3] % pad_to == 0
    assert batch.images.shape[2] - max(height for height, _, _ in shapes) < pad_to
    assert batch.images.shape[3] - max(width for _, width, _ in shapes) < pad_to
    assert batch.targets is not None
    for row, item in enumerate(items):
        assert item.target is not None
        np.testing.assert_array_equal(batch.boxes[row], item.sample.boxes)
        np.testing.assert_array_equal(batch.ignore[row], item.sample.ignore)
        np.testing.assert_array_equal(batch.category[row], item.sample.category)
        for column, expected in zip(batch.targets[row], item.target, strict=True):
            torch.testing.assert_close(column, expected, rtol=0, atol=0)


def test_to_original_undoes_the_scale_of_each_axis(batch):
    # Item 0 was scaled by 0.5 in height and 0.25 in width.
    original = batch.to_original(0, torch.tensor([[1.0, 1.0, 2.0, 3.0]]))
    assert original.tolist() == [[4, 2, 8, 6]]
    assert original.dtype == torch.float64
    assert batch.to_original(0, torch.zeros(0, 4)).shape == (0, 4)


def test_types_of_an_image_without_boxes(batch):
    assert batch.boxes[1].shape == (0, 4)
    assert (batch.boxes[1].dtype, batch.ignore[1].dtype) == (torch.float32, torch.bool)
    assert batch.category[1].dtype == torch.int64
    assert batch.targets is not None
    assert batch.targets[1].boxes.shape == (0, 4)


def test_a_batch_without_any_box():
    batch = collate([_item(4, 6, 0, 0)])
    assert [boxes.shape for boxes in batch.boxes] == [(0, 4)]


def test_augmented_items_have_no_targets():
    items = [_item(4, 6, 2, row)._replace(target=None) for row in range(2)]
    batch = collate(items)
    assert batch.targets is None
    with pytest.raises(AssertionError):
        collate([items[0], _item(4, 6, 2, 1)])


def test_to_moves_what_the_network_reads_and_leaves_the_scoring(batch):
    moved = batch.to("meta")
    assert {t.device.type for t in (moved.images, *moved.boxes, *moved.ignore)} == {"meta"}
    assert {t.device.type for t in (moved.sizes, moved.scales, moved.index, *moved.targets[0])} == {"cpu"}


def test_a_batch_survives_the_way_from_a_worker(batch):
    copy = pickle.loads(pickle.dumps(batch))
    assert copy.images.is_contiguous(memory_format=torch.channels_last)
    assert (copy.image_ids, copy.num_boxes) == (batch.image_ids, [2, 0, 1])
    for name in ("images", "sizes", "scales", "index", "all_boxes", "all_ignore", "all_category", "all_targets"):
        torch.testing.assert_close(getattr(copy, name), getattr(batch, name), rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_pinned_memory(batch):
    pinned = batch.pin_memory()
    assert pinned.images.is_pinned()
    assert pinned.to("cuda").images.is_contiguous(memory_format=torch.channels_last)


def _item(height: int, width: int, count: int, index: int) -> Item:
    rng = np.random.default_rng([height, width, count, index])
    boxes = rng.uniform(0, 9, (count, 4))
    sample = Sample(
        image=np.full((height, width, 3), 255, np.uint8),
        boxes=boxes.astype(np.float32),
        area=np.ones(count, np.float32),
        category=rng.integers(0, 5, count),
        ignore=rng.random(count) < 0.5,
        image_id=f"image {index}",
    )
    flags = torch.from_numpy(sample.ignore)
    target = Target(torch.from_numpy(boxes), torch.ones(count).double(), flags, ~flags)
    return Item(sample, (0.5, 0.25), index, target)


def test_a_batch_outside_of_shared_memory_travels_by_value(batch):
    """As a loading process sends it where shared memory is too small."""
    sent = bytes(ForkingPickler.dumps(batch))
    assert len(sent) > batch.images.numel()
    received = pickle.loads(sent)
    assert torch.equal(received.images, batch.images)
    assert received.images.is_contiguous(memory_format=torch.channels_last)


def test_room_in_shared_memory(tmp_path):
    assert shared_memory_left(str(tmp_path / "nowhere")) == math.inf
    assert 0 < shared_memory_left(str(tmp_path)) < math.inf
