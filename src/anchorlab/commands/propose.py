"""The propose.py command: a trained network's proposals for any number of images, saved in parts that survive
interruption.

P proposals of one image.
"""

import copy
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig

from anchorlab.config.composition import settings_of
from anchorlab.console import bar, console
from anchorlab.data.batch import Batch
from anchorlab.data.decode import decode
from anchorlab.data.resize import resized
from anchorlab.data.sample import DataError
from anchorlab.errors import FAILED, INTERRUPTED, SettingError, user_sentences
from anchorlab.plots.boxes import proposals_picture, save
from anchorlab.plots.scene import Scene
from anchorlab.rpn.predictions import Predictions
from anchorlab.rpn.proposals.nms import Proposals
from anchorlab.runs.files import FolderLock, make_folder, read_archive, remove_leftovers, write_whole
from anchorlab.trained.device import autocast, settings_for, torch_device
from anchorlab.trained.images import Listed, list_images, parcels
from anchorlab.trained.load import Trained, load_asked_for
from anchorlab.trained.writers import WRITERS, Part
from anchorlab.training.hardware import flush_denormals
from anchorlab.training.trainer import TrainerSettings

PARTS, MANIFEST, SHARDS, UNREADABLE = ".parts", "manifest.json", "shards", "unreadable.txt"

BATCHES_READ = 4
"""So many batches a loading process reads at a time, to find images of one size among them."""


class Shard(NamedTuple):
    """One of `count` shares of the parts: the parts `number`, `number` + `count`, ... of those numbered from 1."""

    number: int
    count: int


@dataclass(frozen=True)
class Proposed:
    """What a command left: its files (none of a shard), how many images, a line for each that could not be read."""

    files: list[Path]
    images: int
    unreadable: list[str]


def run_from_command_line(config: DictConfig) -> None:
    """What propose.py does with a composed config. Exit code 1 where an image could not be read."""
    with user_sentences():
        plain = settings_of(config)
        try:
            done = propose(plain)
        except KeyboardInterrupt:
            print(f"\ninterrupted: {plain['output']} keeps what is done, the same command goes on", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
    for path in done.files:
        console().print(str(path), markup=False, soft_wrap=True)
    count = len(done.unreadable)
    if plain["shard"] is not None:
        console().print(
            f"shard {plain['shard']}: {done.images - count:,} of {done.images:,} images read; when all shards are "
            "done, the same command without shard= writes the files",
            markup=False,
            soft_wrap=True,
        )
    elif count:
        print(f"error: {count} image{'s' * (count != 1)} could not be read: {done.files[-1]}", file=sys.stderr)
        raise SystemExit(FAILED)


def propose(config: Mapping[str, Any]) -> Proposed:
    """Proposals of every image of `source` into the folder `output`, in the formats asked for.

    With `shard` those of its share alone, kept in `output` for the command that has none and writes the files.

    Raises:
        SettingError: no such network or images; a folder that another command writes, or left unfinished.
        KeyboardInterrupt: as it came; the parts that are whole stay.
    """
    flush_denormals()
    return propose_with(load_asked_for(config), config)


def propose_with(trained: Trained, config: Mapping[str, Any]) -> Proposed:
    """As `propose`, with a network that is loaded already."""
    megapixels = trained.megapixels if config["megapixels"] is None else config["megapixels"]
    listed = list_images(config["source"], config["folder"], megapixels)
    folder = make_folder(Path(str(config["output"])).expanduser(), "output")
    shard = shard_of(config["shard"])
    parts = _Parts(folder, config["chunk"], len(listed.paths), shard)
    with parts.claimed(_identity(trained, listed, config)):
        missing = parts.missing()
        if missing:
            _compute(trained, listed, config, parts, missing)
        if shard is not None:
            return Proposed([], sum(len(parts.rows(number)) for number in parts.own), parts.problems())
        formats = [config["format"]] if isinstance(config["format"], str) else config["format"]
        files = []
        for name, write in (WRITERS[name] for name in formats):
            write(lambda: parts.read(listed), folder / name)
            files.append(folder / name)
        files += _draw(listed, parts, folder, config["pictures"], config["top"])
        unreadable = [*map(str, listed.problems), *parts.problems()]
        if unreadable:
            write_whole(folder / UNREADABLE, "".join(f"{line}\n" for line in unreadable).encode())
            files.append(folder / UNREADABLE)
        else:
            (folder / UNREADABLE).unlink(missing_ok=True)  # of an earlier command
        parts.remove()
        return Proposed(files, len(listed.paths), unreadable)


def shard_of(text: str | None) -> Shard | None:
    """`3/8` as numbers.

    Raises:
        SettingError: anything else.
    """
    if text is None:
        return None
    number, slash, count = str(text).partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise SettingError(f"shard={text} is not possible: it must be a number and how many there are, such as 3/8")
    return Shard(int(number), int(count))


class _Parts:
    """Files of `chunk` images each, numbered; whole or not there. One process writes them, or one process a shard."""

    def __init__(self, folder: Path, chunk: int, images: int, shard: Shard | None) -> None:
        self.folder, self.chunk, self.images, self.shard = folder / PARTS, chunk, images, shard
        self.locks = [FolderLock(self.folder)]
        if shard is not None:
            self.locks.append(FolderLock(self.folder / SHARDS / f"{shard.number}-of-{shard.count}"))

    @contextmanager
    def claimed(self, identity: Mapping[str, Any]) -> Iterator[None]:
        """The parts are ours alone meanwhile, and begin with those that the same command left.

        Raises:
            SettingError: they are another command's, or a command that is still running writes them.
        """
        self._lock()
        try:
            path = self.folder / MANIFEST
            if path.is_file() and json.loads(path.read_text()) != identity:
                raise SettingError(
                    f"output={self.folder.parent} holds the unfinished proposals of another command: give another "
                    f"folder, or delete {self.folder}"
                )
            if self.shard is None:
                remove_leftovers(self.folder)
                for leftover in self.folder.parent.glob(".proposals.*.tmp"):
                    leftover.unlink()
            write_whole(path, json.dumps(identity, indent=2).encode())
            yield
        finally:
            self._unlock()

    def _lock(self) -> None:
        """Shards share the folder, and each has its share alone; the command without a shard has all of it alone."""
        shared = [True, False] if self.shard is not None else [False]
        while all(lock.acquire(shared=kind) for lock, kind in zip(self.locks, shared, strict=True)):
            if all(lock.path.exists() for lock in self.locks):
                return
            self._unlock()  # a command that ended just now deleted them
        self._unlock()
        raise SettingError(
            f"output={self.folder.parent} is being written by another process: wait for its end, or give another folder"
        )

    def _unlock(self) -> None:
        for lock in self.locks:
            lock.release()

    @property
    def numbers(self) -> range:
        return range(-(-self.images // self.chunk))

    @property
    def own(self) -> range:
        """Those to be computed here."""
        return self.numbers if self.shard is None else self.numbers[self.shard.number - 1 :: self.shard.count]

    def missing(self) -> list[int]:
        return [number for number in self.own if not self._path(number).is_file()]

    def rows(self, number: int) -> range:
        return range(number * self.chunk, min((number + 1) * self.chunk, self.images))

    def write(self, number: int, part: Part, rows: Sequence[int], problems: Sequence[str]) -> None:
        packed = BytesIO()
        arrays = {"rows": np.array(rows, np.int64), "size": part.size, "num": part.num}
        arrays |= {"boxes": part.boxes, "scores": part.scores, "problems": np.array(problems, dtype=np.str_)}
        np.savez(packed, allow_pickle=False, **arrays)
        write_whole(self._path(number), packed.getvalue())

    def read(self, listed: Listed) -> Iterable[Part]:
        return (self._part(number, listed.ids) for number in self.numbers)

    def of(self, rows: Sequence[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Boxes and scores of a few rows; unreadable ones are left out."""
        found = {}
        for number in sorted({row // self.chunk for row in rows}):
            part = self._part(number, range(self.images))
            found |= {int(row): (boxes, scores) for row, boxes, scores in part.images() if row in rows}
        return found

    def problems(self) -> list[str]:
        found = []
        for number in self.own:
            with np.load(self._path(number)) as arrays:  # reads this array alone, not the boxes
                found += arrays["problems"].tolist()
        return found

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _part(self, number: int, ids: Sequence[int | str]) -> Part:
        arrays = read_archive(self._path(number))
        names = [ids[row] for row in arrays["rows"].tolist()]
        return Part(names, arrays["size"], arrays["num"], arrays["boxes"], arrays["scores"])

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def _compute(
    trained: Trained, listed: Listed, config: Mapping[str, Any], parts: _Parts, missing: Sequence[int]
) -> None:
    machine = settings_for(trained.config.get("trainer"), trained.network, config["device"], config["precision"])
    machine.prepare_process()
    worker = Worker(trained, machine, config["limit"])
    resize = resized(*trained.resize, config["size"])
    step = BATCHES_READ * config["batch_size"]
    groups = [part[at : at + step] for part in map(parts.rows, missing) for at in range(0, len(part), step)]
    stream = iter(parcels(listed, groups, resize, trained.pad_to, config["batch_size"], config["workers"]))
    todo = sum(map(len, groups))
    total = sum(len(parts.rows(number)) for number in parts.own)
    with bar(console()) as progress:
        task = progress.add_task("proposals", total=total, completed=total - todo)
        for number in missing:
            left, done, problems = len(parts.rows(number)), [], []
            while left:
                parcel = next(stream)
                left -= len(parcel.rows)
                problems += map(str, parcel.problems)
                for batch in parcel.batches:
                    done += worker(batch)
                progress.advance(task, len(parcel.rows))
            done.sort(key=lambda image: image.row)
            parts.write(number, _as_part(done), [image.row for image in done], problems)


@dataclass(frozen=True)
class _Image:
    """The proposals of one row, in original pixels."""

    row: int
    size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray


class Worker:
    """Batches -> proposals, on the machine's device and in its precision, by a copy of the network for that alone."""

    def __init__(self, trained: Trained, machine: TrainerSettings, limit: int | None) -> None:
        self.machine, self.device = machine, torch_device(machine)
        self.layout = torch.channels_last if machine.channels_last else torch.contiguous_format
        network = copy.deepcopy(trained.network)
        network.backbone.settle()
        self.network = network.to(self.device).to(memory_format=self.layout)  # pyright: ignore[reportCallIssue]
        self.limit = limit

    def __call__(self, batch: Batch) -> list[_Image]:
        found = self.propose(self.predict(batch), batch)
        return [self._image(batch, row, proposals) for row, proposals in enumerate(found)]

    @torch.no_grad()
    def predict(self, batch: Batch) -> Predictions:
        on_device = batch.to(self.device)
        images = self.network.prepare(on_device.images, on_device.sizes).contiguous(memory_format=self.layout)
        with autocast(self.machine):
            return self.network(images)

    def propose(self, predictions: Predictions, batch: Batch) -> list[Proposals]:
        return self.network.propose(predictions, batch.sizes)

    def _image(self, batch: Batch, row: int, found: Proposals) -> _Image:
        best = slice(self.limit)
        boxes = batch.to_original(row, found.boxes[best]).float().numpy()
        height, width = (batch.sizes[row] / batch.scales[row]).round().long().tolist()
        return _Image(int(batch.index[row]), (height, width), boxes, found.scores[best].cpu().numpy())


def _as_part(images: Sequence[_Image]) -> Part:
    return Part(
        ids=[image.row for image in images],
        size=np.array([image.size for image in images], np.int64).reshape(-1, 2),
        num=np.array([len(image.scores) for image in images], np.int64),
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *(image.boxes for image in images)]),
        scores=np.concatenate([np.zeros(0, np.float32), *(image.scores for image in images)]),
    )


def _identity(trained: Trained, listed: Listed, config: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same for parts to belong together."""
    names = "\n".join(f"{path.resolve()}\t{name}" for path, name in zip(listed.paths, listed.ids, strict=True))
    file = trained.file.resolve()
    return {
        "weights": [str(file), file.stat().st_size, file.stat().st_mtime_ns],
        "images": hashlib.sha256(names.encode()).hexdigest(),
        "proposals": trained.config.get("proposals"),
        "megapixels": listed.megapixels,
        **{key: config[key] for key in ("limit", "size", "chunk", "device", "precision")},
    }


def _draw(listed: Listed, parts: _Parts, folder: Path, pictures: int, top: int) -> list[Path]:
    count = min(pictures, len(listed.paths))
    rows = [i * len(listed.paths) // count for i in range(count)]
    names = dict(zip(rows, picture_names([listed.ids[row] for row in rows]), strict=True))
    files = []
    for row, (boxes, scores) in sorted(parts.of(rows).items()):
        try:
            sample = decode(listed.record(row))
        except DataError:  # gone since
            continue
        truth = sample.boxes[~sample.ignore]
        scene = Scene(sample.image, truth, boxes, scores, listed.ids[row])
        path = folder / "figures" / f"{names[row]}.png"
        save(proposals_picture(scene, top, with_truth=row in listed.known), path)
        files.append(path)
    return files


def picture_names(ids: Sequence[int | str]) -> list[str]:
    """A file name for the picture of each image, no two the same: short where that tells them apart."""
    whole = [str(name).replace("/", "_") for name in ids]
    short = [Path(name).stem for name in whole]
    seen = Counter(name.lower() for name in short)  # file systems may not tell a from A
    names = [stem if seen[stem.lower()] == 1 else name for stem, name in zip(short, whole, strict=True)]
    seen = Counter(name.lower() for name in names)
    return [name if seen[name.lower()] == 1 else f"{name}-{i + 1}" for i, name in enumerate(names)]
