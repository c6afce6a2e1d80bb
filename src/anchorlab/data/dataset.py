"""Records as a map-style data set, and the order in which an epoch visits them.

Every random choice is a function of (seed, epoch, index): the same for any number of worker processes, new
in every epoch, independent of what was drawn before. The epoch travels with the index, since workers that
persist over epochs hold a copy of the data set from before the first. What becomes of an image that cannot be
read, and of the processes that read, is the loader's part (loader.py).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from anchorlab.data.batch import Item, target_of
from anchorlab.data.cache import PixelCache
from anchorlab.data.decode import read_sample, sample_at
from anchorlab.data.resize import resize_sample, target_size
from anchorlab.data.sample import Augment, Record, Sample

# Last words of a seed, one per use: no two uses share a stream.
ORDER, AUGMENT = 1, 2

Key = int | tuple[int, int]  # a row of the records, or (epoch, row)


class ImageDataset(Dataset[Item]):
    """Decodes, resizes and augments one image at a time.

    An image is augmented at the size the network sees, so that a strength (of noise, of blur) means the same
    whatever the camera, large photographs cost no more than small ones, and pixels from a cache are those
    from the file. Where a crop made it smaller, it is resized once more.

    A key is a row of `records`, or (epoch, row) where augmentation is to change with the epoch. Raises
    `DataError` with file and id where an image cannot be read any more.

    Args:
        cache: the records' images at the network's size; None: they are decoded and resized each time.
    """

    def __init__(
        self,
        records: Sequence[Record],
        short: int | None,
        long: int | None,
        augment: Augment | None = None,
        seed: int = 0,
        cache: PixelCache | None = None,
    ):
        self.records = records
        self.short = short
        self.long = long
        self.augment = augment
        self.seed = seed
        self.cache = cache

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> Item:
        epoch, row = key if isinstance(key, tuple) else (0, key)
        sample, scale = self._read(row)
        if self.augment is None:
            return Item(sample, scale, row, target_of(self.records[row]))
        rng = np.random.default_rng([self.seed, epoch, row, AUGMENT])
        sample = self.augment(sample, rng, lambda other: self._read(other % len(self))[0])
        sample, zoom = resize_sample(sample, target_size(*sample.image.shape[:2], self.short, self.long))
        return Item(sample, (scale[0] * zoom[0], scale[1] * zoom[1]), row, None)

    def _read(self, row: int) -> tuple[Sample, tuple[float, float]]:
        """The sample at the network's size, and its scale."""
        record = self.records[row]
        if self.cache is None:
            return read_sample(record, self.short, self.long)
        return sample_at(record, self.cache[row])


class EpochSampler(DistributedSampler):
    """Keys (epoch, row) of one process: every row once an epoch, in an order made of (seed, epoch) alone.

    Process `rank` takes each `num_replicas`-th place of that order, so that the global batches are the same
    sets of images for any number of processes. It is a `DistributedSampler` for Lightning to leave it in place
    and to tell it the epoch.

    Args:
        batch_size: of all processes. Rows beyond the last whole batch are left out, unless there is none; then
            the processes share the rows unevenly, and a row comes twice only where they outnumber the rows.
        visited: how many of this process's keys the epoch that begins has behind it: none, but in a run that is
            resumed within one. Asked when the iterator is made.
    """

    def __init__(
        self,
        num_rows: int,
        rank: int,
        num_replicas: int,
        seed: int,
        batch_size: int = 1,
        visited: Callable[[], int] = lambda: 0,
    ):
        super().__init__(range(num_rows), num_replicas=num_replicas, rank=rank, seed=seed)  # type: ignore[arg-type]
        whole = num_rows // batch_size * batch_size
        self.num_rows = num_rows
        self.total_size = whole or max(num_rows, num_replicas)
        self.num_samples = len(range(rank, self.total_size, num_replicas))
        self.visited = visited

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch, ORDER]).permutation(self.num_rows)
        places = np.arange(self.rank, self.total_size, self.num_replicas)
        return iter([(self.epoch, int(row)) for row in order[places % len(order)]][self.visited() :])
