"""Records as a map-style data set, and the order in which an epoch visits them.

Every random choice is a function of (seed, epoch, index): the same for any number of worker processes, new
in every epoch, independent of what was drawn before. The epoch travels with the index, since workers that
persist over epochs hold a copy of the data set from before the first.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from anchorlab.data.batch import Item, target_of
from anchorlab.data.resize import resize_sample, target_size
from anchorlab.data.sample import Augment, DataError, Record, Sample

# Last words of a seed, one per use: no two uses share a stream.
ORDER, AUGMENT = 1, 2


class ImageDataset(Dataset[Item]):
    """Decodes, augments and resizes one image at a time.

    A key is a row of `records`, or (epoch, row) where augmentation is to change with the epoch. Raises
    `DataError` with file and id where an image cannot be decoded any more.
    """

    def __init__(
        self,
        records: Sequence[Record],
        short: int | None,
        long: int | None,
        augment: Augment | None = None,
        seed: int = 0,
    ):
        self.records = records
        self.short = short
        self.long = long
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        record = self.records[index]
        sample, target = self._decode(index), target_of(record)
        if self.augment is not None:
            rng = np.random.default_rng([self.seed, epoch, index, AUGMENT])
            sample, target = self.augment(sample, rng, self._decode), None
        height, width = sample.image.shape[:2]
        sample, scale = resize_sample(sample, target_size(height, width, self.short, self.long))
        return Item(sample, scale, index, target)

    def _decode(self, index: int) -> Sample:
        return decode(self.records[index % len(self.records)])


class EpochSampler(DistributedSampler):
    """Keys (epoch, row) of one process: every row once an epoch, in an order made of (seed, epoch) alone.

    Process `rank` takes each `num_replicas`-th place of that order, so that the global batches are the same
    sets of images for any number of processes; the last round is filled up from the start of the order. It
    is a `DistributedSampler` for Lightning to leave it in place and to tell it the epoch.
    """

    def __init__(self, num_rows: int, rank: int, num_replicas: int, seed: int):
        super().__init__(range(num_rows), num_replicas=num_replicas, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.num_rows = num_rows

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch, ORDER]).permutation(self.num_rows)
        places = np.arange(self.rank, self.total_size, self.num_replicas)
        return iter([(self.epoch, int(row)) for row in order[places % len(order)]])


class LateLoader(DataLoader):
    """A data loader that asks its sampler for the order at the first batch, not when the iterator is made.

    Lightning makes the first iterator of a resumed run before it tells the sampler the epoch; workers would
    by then have fetched the batches of epoch 0.
    """

    def __iter__(self):
        yield from super().__iter__()


def decode(record: Record) -> Sample:
    """The record's pixels and boxes, the boxes clipped to the image."""
    image = cv2.imread(str(record.path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    size = None if image is None else image.shape[:2]
    if image is None or size != (record.height, record.width):
        found = "cannot be decoded" if image is None else f"has changed its size to {size} (height, width)"
        raise DataError(f"{record.path}: image {record.image_id} {found} since it was checked at set-up")
    limits = np.array([record.width, record.height, record.width, record.height])
    return Sample(
        image=cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
        boxes=np.clip(record.boxes, 0, limits).astype(np.float32),
        area=record.area.astype(np.float32),
        category=record.category,
        ignore=record.ignore,
        image_id=record.image_id,
    )


def single_thread(worker: int) -> None:
    """Set up a worker process: the processes are parallel already, threads would fight over the cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
