"""The propose.py command: a trained network's proposals for any number of images, saved in parts that survive
interruption.

P proposals of one image.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from anchorlab.console import bar, console
from anchorlab.data.batch import Batch
from anchorlab.data.decode import decode
from anchorlab.data.resize import resized
from anchorlab.data.sample import DataError
from anchorlab.errors import FAILED, SettingError, user_sentences
from anchorlab.plots.boxes import Scene, proposals_picture, save
from anchorlab.rpn.proposals.nms import Proposals
from anchorlab.runs.files import FolderLock, read_archive, remove_leftovers, write_whole
from anchorlab.trained.device import autocast, settings_for, torch_device
from anchorlab.trained.images import Listed, list_images, parcels
from anchorlab.trained.load import Trained, load_asked_for
from anchorlab.trained.writers import WRITERS, Part
from anchorlab.training.hardware import flush_denormals
from anchorlab.training.trainer import TrainerSettings

PARTS, MANIFEST, UNREADABLE = ".parts", "manifest.json", "unreadable.txt"
INTERRUPTED = 130


@dataclass(frozen=True)
class Proposed:
    """What a command left: its files, how many images, and one line for each that could not be read."""

    files: list[Path]
    images: int
    unreadable: list[str]


def run_from_command_line(config: DictConfig) -> None:
    """What propose.py does with a composed config. Exit code 1 where an image could not be read."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    with user_sentences():
        try:
            done = propose(plain)
        except KeyboardInterrupt:
            print(f"\ninterrupted: {plain['output']} keeps what is done, the same command goes on", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
    for path in done.files:
        console().print(str(path), markup=False, soft_wrap=True)
    if done.unreadable:
        count = len(done.unreadable)
        print(f"error: {count} image{'s' * (count != 1)} could not be read: {done.files[-1]}", file=sys.stderr)
        raise SystemExit(FAILED)


def propose(config: Mapping[str, Any]) -> Proposed:
    """Proposals of every image of `source` into the folder `output`, in the formats asked for.

    Raises:
        SettingError: no such network or images; a folder that holds the proposals of another command.
        KeyboardInterrupt: as it came; the parts that are whole stay.
    """
    flush_denormals()
    return propose_with(load_asked_for(config), config)


def propose_with(trained: Trained, config: Mapping[str, Any]) -> Proposed:
    """As `propose`, with a network that is loaded already."""
    listed = list_images(config["source"], config["folder"])
    folder = Path(config["output"]).expanduser()
    parts = _Parts(folder, config["chunk"], len(listed.paths))
    parts.claim(_identity(trained, listed, config))
    missing = parts.missing()
    if missing:
        _compute(trained, listed, config, parts, missing)
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
    parts.remove()
    return Proposed(files, len(listed.paths), unreadable)


class _Parts:
    """Files of `chunk` images each, numbered; whole or not there."""

    def __init__(self, folder: Path, chunk: int, images: int) -> None:
        self.folder, self.chunk, self.images = folder / PARTS, chunk, images
        self.lock = FolderLock(self.folder)

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Go on with the parts of the same command; SettingError where they are another's, or it is still running."""
        path = self.folder / MANIFEST
        if path.is_file() and json.loads(path.read_text()) != identity:
            raise SettingError(
                f"output={self.folder.parent} holds the unfinished proposals of another command: give another folder, "
                f"or delete {self.folder}"
            )
        if not self.lock.acquire():
            raise SettingError(f"output={self.folder.parent} is being written by another process: wait for its end")
        remove_leftovers(self.folder)
        for leftover in self.folder.parent.glob(".proposals.*.tmp"):
            leftover.unlink()
        write_whole(path, json.dumps(identity, indent=2).encode())

    @property
    def numbers(self) -> range:
        return range(-(-self.images // self.chunk))

    def missing(self) -> list[int]:
        return [number for number in self.numbers if not self._path(number).is_file()]

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
        for number in self.numbers:
            with np.load(self._path(number)) as arrays:  # reads this array alone, not the boxes
                found += arrays["problems"].tolist()
        return found

    def remove(self) -> None:
        self.lock.release()
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
    worker = _Worker(trained, machine, config["limit"])
    resize = resized(*trained.resize, config["size"])
    rows = [row for number in missing for row in parts.rows(number)]
    stream = iter(
        parcels(listed, rows, resize, trained.pad_to, _divisor(parts.chunk, config["batch_size"]), config["workers"])
    )
    with bar(console()) as progress:
        task = progress.add_task("proposals", total=len(listed.paths), completed=len(listed.paths) - len(rows))
        for number in missing:
            left, done, problems = len(parts.rows(number)), [], []
            while left:
                parcel = next(stream)
                left -= len(parcel.rows)
                problems += map(str, parcel.problems)
                if parcel.batch is not None:
                    done += worker(parcel.batch)
                progress.advance(task, len(parcel.rows))
            parts.write(number, _joined(done), [image.row for image in done], problems)


@dataclass(frozen=True)
class _Image:
    """The proposals of one row, in original pixels."""

    row: int
    size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray


class _Worker:
    """Batches -> proposals, on the machine's device and in its precision."""

    def __init__(self, trained: Trained, machine: TrainerSettings, limit: int | None) -> None:
        self.machine, self.device = machine, torch_device(machine)
        self.layout = torch.channels_last if machine.channels_last else torch.contiguous_format
        self.network = trained.network.to(self.device).to(memory_format=self.layout)  # pyright: ignore[reportCallIssue]
        self.limit = limit

    @torch.no_grad()
    def __call__(self, batch: Batch) -> list[_Image]:
        on_device = batch.to(self.device)
        images = self.network.prepare(on_device.images, on_device.sizes).contiguous(memory_format=self.layout)
        with autocast(self.machine):
            predictions = self.network(images)
        proposals = self.network.propose(predictions, batch.sizes)
        return [self._image(batch, row, found) for row, found in enumerate(proposals)]

    def _image(self, batch: Batch, row: int, found: Proposals) -> _Image:
        best = slice(self.limit)
        boxes = batch.to_original(row, found.boxes[best]).float().numpy()
        height, width = (batch.sizes[row] / batch.scales[row]).round().long().tolist()
        return _Image(int(batch.index[row]), (height, width), boxes, found.scores[best].cpu().numpy())


def _joined(images: Sequence[_Image]) -> Part:
    return Part(
        ids=[image.row for image in images],
        size=np.array([image.size for image in images], np.int64).reshape(-1, 2),
        num=np.array([len(image.scores) for image in images], np.int64),
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *(image.boxes for image in images)]),
        scores=np.concatenate([np.zeros(0, np.float32), *(image.scores for image in images)]),
    )


def _divisor(chunk: int, batch_size: int) -> int:
    """The largest batch that parts of `chunk` images are made of without a rest, or one image."""
    return max(size for size in range(1, min(batch_size, chunk) + 1) if chunk % size == 0)


def _identity(trained: Trained, listed: Listed, config: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same for parts to belong together."""
    names = "\n".join(f"{path.resolve()}\t{name}" for path, name in zip(listed.paths, listed.ids, strict=True))
    file = trained.file.resolve()
    return {
        "weights": [str(file), file.stat().st_size, file.stat().st_mtime_ns],
        "images": hashlib.sha256(names.encode()).hexdigest(),
        "proposals": trained.config.get("proposals"),
        **{key: config[key] for key in ("limit", "size", "chunk", "device", "precision")},
    }


def _draw(listed: Listed, parts: _Parts, folder: Path, pictures: int, top: int) -> list[Path]:
    count = min(pictures, len(listed.paths))
    rows = [i * len(listed.paths) // count for i in range(count)]
    files = []
    for row, (boxes, scores) in sorted(parts.of(rows).items()):
        try:
            sample = decode(listed.record(row))
        except DataError:  # gone since
            continue
        name = str(listed.ids[row]).replace("/", "_")
        truth = sample.boxes[~sample.ignore]
        scene = Scene(sample.image, truth, boxes, scores, listed.ids[row])
        path = folder / "figures" / f"{Path(name).stem}.png"
        save(proposals_picture(scene, top, with_truth=row in listed.known), path)
        files.append(path)
    return files
