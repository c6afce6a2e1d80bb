"""One data set as Lightning takes it: read and checked once, divided, and served in batches.

Layouts and formats are the readers' part (auto.py, coco.py, synthetic.py, ...), pixels the data set's (dataset.py);
here are the rules about which images belong to which split and to which process.
"""

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import lightning
import numpy as np
from annotated_types import Ge, Le
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DistributedSampler

from anchorlab.console import in_sweep, tell
from anchorlab.data.cache import PixelCache, open_cache
from anchorlab.data.dataset import EpochSampler, ImageDataset
from anchorlab.data.headers import Exif, ImageRules
from anchorlab.data.loader import Loader
from anchorlab.data.sample import Augment, DataError, Problem, Reader, Record, summary
from anchorlab.signatures import Count, CountOrZero, InnerShare, Positive, Side, checked

COPY = ".rf."


@checked
class DataModule(lightning.LightningDataModule):
    """Training, validation and test batches of one data set.

    Args:
        reader: called with `root=root`; gives the `Reader` of the data set's format.
        root: the data set's folder, or a file that tells where it is (for synthetic data: the folder it is kept in).
        batch_size: images per training step over all processes together.
        workers: worker processes of each process.
        short, long: the side lengths `resize.target_size` aims at, in pixels; None: no such rule.
        pad_to: batches are padded to multiples of this many pixels. Where the sides of what a network sees are
            no multiples of its coarsest convolution's stride, "same" padding as TensorFlow has it (EfficientNet)
            begins at other pixels for odd sizes than for even ones: the same cell looks elsewhere in every batch.
        categories: names of the categories to keep, None for all. Boxes of others become background, their
            images stay.
        score: which boxes are to be found in images that are not trained on: "kept", those of `categories`; "unseen",
            those of all others, as a measure of what was learnt about objects as such (Kim et al. 2022, OLN). The
            kept ones are then marked `known`: neither scored nor counted against a budget.
        val_fraction: share of the images that validate where the data set has no such split, chosen by a hash
            of `split_seed` and image id.
        holdout: share of the training images that is scored in place of the data's own validation split, which is
            then not read, and not trained on; chosen as by `val_fraction`. For choices between settings, so that the
            split a result is reported on has no part in them. None: none.
        on_error: "raise" lists every problem of the data in one `DataError`; "skip" leaves out what is bad. What
            goes bad after set-up is treated as `loader.Loader` says.
        exif: "auto", "apply" or "ignore": as in `headers.ImageRules`.
        megapixels: larger images are refused.
        timeout: seconds to wait for a batch before a worker counts as hanging; None: for ever.
        cache: None, or "disk": decoded and resized images are kept in `cache_folder` for all later epochs and runs
            (cache.py), at most `cache_limit` GiB of them.
        limit_train, limit_val: use that many images, None for all; fewer are always a subset of more.
        val_batch_size: images per validation step over all processes; None: as in training.
        validate_on: the split that is scored.
        augment: applied to training samples before they are resized (`sample.Augment`), None for none.
        seed: of order and augmentation.

    After `setup`: `train_records`, `val_records`, `category_names`; the `problems`, which is what was left out, and the
    `mended`, which is what was read otherwise than written. Loading adds the problems it meets. What the reader took
    for what is printed once.
    """

    def __init__(
        self,
        reader: Callable[..., Reader],
        root: str,
        batch_size: Count = 8,
        workers: CountOrZero = 2,
        short: Side | None = None,
        long: Side | None = 416,
        pad_to: Annotated[int, Ge(1), Le(1024)] = 32,
        categories: Sequence[str] | None = None,
        val_fraction: InnerShare = 0.2,
        split_seed: CountOrZero = 0,
        on_error: Literal["raise", "skip"] = "raise",
        limit_train: Count | None = None,
        limit_val: Count | None = None,
        val_batch_size: Count | None = None,
        validate_on: Literal["train", "val", "test"] = "val",
        timeout: Positive | None = 300,
        cache: Literal["disk"] | None = None,
        cache_limit: Positive = 20,
        cache_folder: str = "~/.cache/anchorlab/images",
        holdout: InnerShare | None = None,
        score: Literal["kept", "unseen"] = "kept",
        exif: Exif = "auto",
        megapixels: Positive = 180,
        *,
        augment: Augment | None = None,
        seed: int = 0,
    ):
        super().__init__()
        _check_sides(short, long)
        _check_score(score, categories, validate_on)
        self.reader = reader(root=root)
        self.reader.image_rules = ImageRules(exif, megapixels)
        self.root = Path(root).expanduser()
        self.batch_size = batch_size
        self.workers = workers
        self.short = short
        self.long = long
        self.pad_to = pad_to
        self.categories = categories
        self.score = score
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.holdout = holdout
        self.on_error = on_error
        self.limits = {"train": limit_train, "val": limit_val}
        self.val_batch_size = batch_size if val_batch_size is None else val_batch_size
        self.validate_on = validate_on
        self.timeout = timeout
        self.cache = cache
        self.cache_limit = cache_limit
        self.cache_folder = Path(cache_folder).expanduser()
        self.augment = augment
        self.seed = seed
        self.problems: list[Problem] = []
        self.mended: list[Problem] = []
        self._records: dict[str, list[Record]] = {}
        self._caches: dict[str, PixelCache] = {}
        self._said: list[str] = []

    def setup(self, stage: str | None = None) -> None:
        """Read, check and, where asked for, cache the splits of Lightning's `stage`, each once.

        None: training and validation.
        """
        splits = {"validate": [self.validate_on], "test": ["test"]}.get(stage or "", ["train", self.validate_on])
        self._require(*splits)
        for split in splits:
            self._open_cache(split)

    @property
    def train_records(self) -> list[Record]:
        return self.records("train")

    @property
    def val_records(self) -> list[Record]:
        """The images that are scored: those of `validate_on`."""
        return self.records(self.validate_on)

    @property
    def category_names(self) -> list[str]:
        """The name of each category index of records, samples and batches."""
        if self.categories is None:
            return list(self.reader.categories)
        return [*self.categories, *(self._unseen_names() if self.score == "unseen" else ())]

    def records(self, split: str) -> list[Record]:
        """The images of "train", "val" or "test"; reads the split first where `setup` has not."""
        self._require(split)
        return self._records[split]

    def dataset(self, split: str, augmented: bool = False) -> ImageDataset:
        """The images of a split as the network sees them, one `batch.Item` each."""
        self._require(split)
        self._open_cache(split)
        augment = self.augment if augmented else None
        return ImageDataset(
            self._records[split], self.short, self.long, augment, self.seed, cache=self._caches.get(split)
        )

    @property
    def listed(self) -> list[Problem]:
        """What problems.txt is to hold: what was left out, and what was mended."""
        return [*self.problems, *self.mended]

    def note(self, problem: Problem) -> None:
        """Keep a problem that loading met, once."""
        if str(problem) not in map(str, self.problems):
            self.problems.append(problem)

    def _require(self, *splits: str) -> None:
        """Read splits that are still missing; problems of all of them are reported together."""
        records = dict(self._records)
        found: list[Problem] = []
        for split in splits:
            if split not in records:  # one read may give both training and validation
                new, problems = self._read(split)
                records.update(new)
                found += problems
        fresh = {split: part for split, part in records.items() if split not in self._records}
        if fresh:
            self._say(fresh, [problem for problem in found if problem.harmless])
        faults = [problem for problem in found if not problem.harmless]
        if faults and self.on_error == "raise":
            raise DataError(_complaint(len(faults), self.root), faults)
        for split, part in fresh.items():
            if self.limits.get(split) is None:
                _check_boxes(part, split, self.root)
        self._records = records
        self.problems += faults
        self.mended += [problem for problem in found if problem.harmless]

    def _say(self, fresh: Mapping[str, list[Record]], mended: list[Problem]) -> None:
        """Print what the reader took the data for, how it is divided, and what was mended, on the first process."""
        taken = getattr(self.reader, "taken", None)
        if taken is None or rank_zero_only.rank != 0 or in_sweep():
            return
        lines = list(taken())
        if "val" in fresh and ("val" not in self.reader.splits() or self.holdout is not None):
            lines.append(self._division())
        lines += [f"note: {line}" for line in summary(mended)]
        lines = [line for line in lines if line not in self._said]
        self._said += lines
        for line in lines:
            tell(f"data: {line}")

    def _division(self) -> str:
        if self.holdout is not None:
            return f"val: {self.holdout:.0%} of train, held out by a seeded rule (data.holdout)"
        return f"val: {self.val_fraction:.0%} of train by a seeded rule: there is no validation split"

    def _read(self, split: str) -> tuple[dict[str, list[Record]], list[Problem]]:
        """The split, or training and validation where one is made of the other."""
        existing = self.reader.splits()
        made = self.holdout is not None or "val" not in existing
        source = "train" if split == "val" and made else split
        if source not in existing:
            raise DataError(f"data.root={self.root} has no split {split!r}, only: {', '.join(existing)}")
        records, problems = self.reader.read(source)
        divided = {source: records}
        if source == "train" and "val" not in existing:
            divided["train"], divided["val"] = divide(records, self.val_fraction, self.split_seed)
        if source == "train" and self.holdout is not None:
            divided["train"], divided["val"] = divide(divided["train"], self.holdout, self.split_seed)
        for name, part in divided.items():
            if not part:
                faults = [problem for problem in problems if not problem.harmless]
                raise DataError(f"data.root={self.root} has no usable image for the split {name!r}", faults)
            if self.limits.get(name) is not None:  # a few images may well have no box, but not all of them
                _check_boxes(self._keep_categories(part, trained=name == "train"), name, self.root)
            limited = first_by_hash(part, self.limits.get(name), self.split_seed)
            divided[name] = self._keep_categories(limited, trained=name == "train")
        return divided, problems

    def _keep_categories(self, records: list[Record], trained: bool) -> list[Record]:
        if self.categories is None:
            return records
        for name in self.categories:
            if name not in self.reader.categories:
                raise ValueError(_unknown_category(name, self.reader.categories))
        unseen = self.score == "unseen" and not trained
        names = self.category_names if unseen else self.categories
        new_index = np.full(len(self.reader.categories), -1)
        for new, name in enumerate(names):
            new_index[self.reader.categories.index(name)] = new
        kept = [_select(record, new_index[record.category]) for record in records]
        return [replace(r, known=r.category < len(self.categories)) for r in kept] if unseen else kept

    def _unseen_names(self) -> list[str]:
        return [name for name in self.reader.categories if name not in (self.categories or ())]

    def _open_cache(self, split: str) -> None:
        """Fill or find the split's cache; what cannot be decoded is found now, and treated as any bad image."""
        if self.cache is None or split in self._caches:
            return
        records = self._records[split]
        keep = [cache.folder for cache in self._caches.values()]
        cache = open_cache(self.cache_folder, records, self.short, self.long, self.cache_limit, keep)
        if cache.problems:
            found = list(cache.problems.values())
            if self.on_error == "raise":
                raise DataError(_complaint(len(found), self.root), found)
            good = [row for row in range(len(records)) if row not in cache.problems]
            if not good:
                raise DataError(f"data.root={self.root} has no usable image for the split {split!r}", found)
            self.problems += found
            self._records[split] = [records[row] for row in good]
            cache = cache.select(good)
        self._caches[split] = cache

    def train_dataloader(self) -> Loader:
        """Shuffled and augmented; an incomplete last batch is dropped, unless it is the only one.

        In a resumed run the first epoch goes on behind the batches that its checkpoint has seen.
        """
        dataset = self.dataset("train", augmented=True)
        rank, world = self._process()
        batch_size = self._share("batch_size", self.batch_size, world)
        sampler = EpochSampler(
            len(dataset), rank, world, self.seed, self.batch_size, visited=lambda: self._batches_behind() * batch_size
        )
        return Loader(dataset, sampler, batch_size, **self._loading())

    def val_dataloader(self) -> Loader:
        return self.eval_dataloader(self.validate_on)

    def eval_dataloader(self, split: str) -> Loader:
        """Every image in the order of the records; processes get equally many, so some may come twice."""
        dataset = self.dataset(split)
        rank, world = self._process()
        sampler = DistributedSampler(dataset, num_replicas=world, rank=rank, shuffle=False)
        batch_size = self._share("val_batch_size", self.val_batch_size, world)
        return Loader(dataset, sampler, batch_size, **self._loading())

    def few(self, split: str, count: int) -> Loader:
        """`count` images, evenly spread over a split, one at a time and on one process."""
        dataset = self.dataset(split)
        count = min(count, len(dataset))
        rows = [i * len(dataset) // count for i in range(count)]
        return Loader(dataset, rows, 1, pad_to=self.pad_to, on_error=self.on_error, report=self.note)

    def _loading(self) -> dict:
        return {
            "pad_to": self.pad_to,
            "workers": self.workers,
            "timeout": self.timeout,
            "on_error": self.on_error,
            "report": self.note,
        }

    def _process(self) -> tuple[int, int]:
        """(rank, number of processes); without a trainer there is one."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _batches_behind(self) -> int:
        """Of the epoch under way; Lightning restores it from a checkpoint only after the loader is made."""
        return 0 if self.trainer is None else self.trainer.fit_loop.epoch_loop.batch_progress.current.completed

    def check_accumulation(self, batches: int) -> None:
        """Raise ValueError where one optimizer step is to take more batches than an epoch has."""
        of_an_epoch = max(1, len(self.train_records) // self.batch_size)
        if batches > of_an_epoch:
            raise ValueError(
                f"trainer.accumulate={batches} batches make one step, and an epoch has only {of_an_epoch}: lower it"
            )

    def check_processes(self, world: int) -> None:
        """Raise ValueError where batches cannot be divided among `world` processes."""
        self._share("batch_size", self.batch_size, world)
        self._share("val_batch_size", self.val_batch_size, world)

    @staticmethod
    def _share(key: str, size: int, world: int) -> int:
        """One process's part of a global batch size."""
        if size % world:
            raise ValueError(
                f"data.{key}={size} is shared by all processes and cannot be divided among {world}: "
                f"take {size // world * world + world}"
            )
        return size // world


def divide(records: Sequence[Record], fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """(training, validation): the `fraction` of images with the smallest hashes validate; at least one each.

    Both keep the order of `records`. An image that joins or leaves the data set moves at most one other. Augmented
    copies of one image, as Roboflow names them, stay together. Validation gets more images where it would have no box.
    """
    count = min(max(1, round(fraction * len(records))), len(records) - 1)
    copies = Counter(map(_source, records))
    with_boxes = {_source(record) for record in records if len(record.boxes)}
    chosen: set[int | str] = set()
    for source in sorted(copies, key=lambda source: _hash(source, seed)):
        if (count <= 0 and not (with_boxes and with_boxes.isdisjoint(chosen))) or len(chosen) == len(copies) - 1:
            break
        if count <= 0 and source not in with_boxes:
            continue
        chosen.add(source)
        count -= copies[source]
    return (
        [record for record in records if _source(record) not in chosen],
        [record for record in records if _source(record) in chosen],
    )


def _source(record: Record) -> int | str:
    """What the copies of one image have in common: its id, or the name before Roboflow's `.rf.<hash>`."""
    name = record.path.name
    return name.partition(COPY)[0] if COPY in name else record.image_id


def first_by_hash(records: Sequence[Record], count: int | None, seed: int) -> list[Record]:
    """The `count` records with the smallest hashes of (seed, image id), in their own order; None: all."""
    if count is None or count >= len(records):
        return list(records)
    by_hash = sorted(range(len(records)), key=lambda row: _hash(records[row].image_id, seed))
    return [records[row] for row in sorted(by_hash[: max(count, 0)])]


def _hash(image_id: int | str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{image_id}".encode(), digest_size=8).digest()


def _select(record: Record, category: np.ndarray) -> Record:
    """The record with its boxes' new categories, without those of category -1."""
    kept = category >= 0
    return replace(
        record,
        boxes=record.boxes[kept],
        area=record.area[kept],
        category=category[kept],
        ignore=record.ignore[kept],
    )


def _check_boxes(records: Sequence[Record], split: str, root: Path) -> None:
    """Raise `DataError` for a split without a single box: nothing could be learnt from it, and nothing scored."""
    boxes = sum(len(record.boxes) for record in records)
    counted = sum(int((~record.ignore).sum()) for record in records)
    if counted:
        return
    if boxes:
        fix = "all of them are crowds or difficult ones (data.reader.difficult=keep counts difficult ones)"
        raise DataError(f"data.root={root}: the split {split!r} has {boxes:,} boxes and none to be found: {fix}")
    raise DataError(
        f"data.root={root}: the {len(records):,} images of the split {split!r} have no box: see that their annotations "
        "lie where they belong, or name another split (data.validate_on) or other categories (data.categories)"
    )


def _check_sides(short: int | None, long: int | None) -> None:
    if short is not None and long is not None and short > long:
        raise ValueError(f"short={short} is above long={long}: the short side cannot be the longer one; swap them")


def _check_score(score: str, categories: Sequence[str] | None, validate_on: str) -> None:
    if score == "unseen" and categories is None:
        raise ValueError(
            "data.score=unseen needs data.categories: list the categories to train on; all others are scored"
        )
    if score == "unseen" and validate_on == "train":
        raise ValueError("data.score=unseen is for images that are not trained on: set data.validate_on=val")


def _complaint(count: int, root: Path) -> str:
    things = "1 problem" if count == 1 else f"{count} problems"
    return f"{things} in data.root={root}: mend the files, or set data.on_error=skip to leave these out"


def _unknown_category(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"this data set has {', '.join(known)}"
    return f"data.categories: there is no category {name!r}; {hint}"
