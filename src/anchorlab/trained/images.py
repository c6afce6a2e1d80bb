"""Images of a command: files, folders, globs, lists and COCO's JSON -> one list in a fixed order, read as it comes.

H, W height and width of an image.
"""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from anchorlab.data.batch import Batch, Item, collate, target_of
from anchorlab.data.coco import CocoReader
from anchorlab.data.decode import read_sample
from anchorlab.data.headers import ImageRules, is_image, read_header
from anchorlab.data.resize import padded_size
from anchorlab.data.sample import DataError, Problem, Record
from anchorlab.data.text import read_lines
from anchorlab.errors import SettingError


@dataclass(frozen=True)
class Listed:
    """The images of a command. `known`: those of COCO's JSON with their boxes, by row; others are only names.

    megapixels: larger images are refused.
    """

    paths: list[Path]
    ids: list[int | str]
    known: dict[int, Record]
    problems: list[Problem]
    megapixels: float = ImageRules.megapixels

    def record(self, row: int) -> Record:
        """The image of a row; its header is read here where nobody has yet. DataError where it cannot be."""
        if row in self.known:
            return self.known[row]
        path, name = self.paths[row], self.ids[row]
        try:
            header = read_header(path, self.megapixels)
        except OSError as error:
            raise DataError.of(_as_told_here(Problem(path, f"image {name}", str(error)))) from None
        nothing = np.zeros(0)
        return Record(
            image_id=name,
            path=path,
            height=header.shown[0],
            width=header.shown[1],
            boxes=np.zeros((0, 4)),
            area=nothing,
            category=nothing.astype(int),
            ignore=nothing.astype(bool),
            orientation=header.orientation,
        )


def list_images(
    source: str | Sequence[str], folder: str | None = None, megapixels: float = ImageRules.megapixels
) -> Listed:
    """Every image of the sources, each path once, in the order given and by name within a folder or glob.

    Ids are COCO's own; else the path below the folder that was named, the line of a list, or the file's name.

    Raises:
        SettingError: a source that does not exist or names no image; names in two folders that are the same.
    """
    listed = Listed([], [], {}, [], megapixels)
    seen: set[Path] = set()
    for entry in [source] if isinstance(source, str) else source:
        before = len(listed.paths)
        place = Path(entry).expanduser()
        if place.suffix == ".json":
            _add_coco(listed, place, folder)
        else:
            for path, name in _files(place, folder):
                if path.resolve() not in seen:
                    seen.add(path.resolve())
                    listed.paths.append(path)
                    listed.ids.append(name)
        if len(listed.paths) == before:
            raise SettingError(f"source={entry} names no image, list of images (.txt) or COCO .json")
    if len(set(map(str, listed.ids))) < len(listed.ids):
        raise SettingError("source names different images by the same name: give the folder above them")
    return listed


@dataclass(frozen=True)
class Parcel:
    """Some rows of the list: batches of the images that could be read, each of one padded size; errors of the rest."""

    rows: list[int]
    batches: list[Batch]
    problems: list[Problem] = field(default_factory=list)


def parcels(
    listed: Listed,
    groups: Sequence[Sequence[int]],
    resize: tuple[int | None, int | None],
    pad_to: int,
    batch_size: int,
    workers: int,
) -> Iterable[Parcel]:
    """The parcels in order, read by `workers` processes; only a few are in memory at a time.

    Only images that are padded to the same size share a batch of at most `batch_size`: padding that another image made
    necessary would change proposals by fractions of a pixel.
    """
    desk = _Desk(listed, resize, pad_to, batch_size)
    return DataLoader(desk, batch_sampler=[list(rows) for rows in groups], num_workers=workers, collate_fn=_as_it_is)


class _Desk(Dataset[Parcel]):
    def __init__(self, listed: Listed, resize: tuple[int | None, int | None], pad_to: int, batch_size: int) -> None:
        self.listed, self.resize, self.pad_to, self.batch_size = listed, resize, pad_to, batch_size

    def __getitems__(self, rows: Sequence[int]) -> Parcel:
        by_size: dict[tuple[int, int], list[Item]] = {}
        problems: list[Problem] = []
        for row in rows:
            try:
                item = self._item(row)
            except DataError as error:
                problems += error.problems
            else:
                height, width = item.sample.image.shape[:2]
                by_size.setdefault(padded_size(height, width, self.pad_to), []).append(item)
        starts = [(items, start) for items in by_size.values() for start in range(0, len(items), self.batch_size)]
        batches = [collate(items[start : start + self.batch_size], self.pad_to) for items, start in starts]
        return Parcel(list(rows), batches, problems)

    def _item(self, row: int) -> Item:
        record = self.listed.record(row)
        sample, scale = read_sample(record, *self.resize)
        return Item(sample, scale, row, target_of(record))


def _add_coco(listed: Listed, file: Path, folder: str | None) -> None:
    if not file.is_file():
        raise SettingError(f"source={file} does not exist")
    reader = CocoReader.of_file(file, Path(folder).expanduser() if folder else None)
    reader.image_rules = ImageRules(megapixels=listed.megapixels)
    records, problems = reader.read("train")
    for record in records:
        listed.known[len(listed.paths)] = record
        listed.paths.append(record.path)
        listed.ids.append(record.image_id)
    listed.problems.extend(_as_told_here(problem) for problem in problems if not problem.harmless)


def _as_told_here(problem: Problem) -> Problem:
    """The limit on pixels is a key of the group data in a training, and one of the command's own here."""
    return replace(problem, message=problem.message.replace("data.megapixels=", "megapixels="))


def _files(place: Path, folder: str | None) -> list[tuple[Path, str]]:
    """The image files, each with its name."""
    if place.is_dir():
        found = (path for path in place.rglob("*") if _is_image(path))
        return [(path, path.relative_to(place).as_posix()) for path in sorted(found)]
    if place.suffix == ".txt" and place.is_file():
        root = Path(folder).expanduser() if folder else place.parent
        lines = read_lines(place)
        return [(root / line, line) for line in lines if line and not line.startswith("#")]
    if place.is_file():
        return [(place, place.name)]
    found = [Path(path) for path in sorted(glob.glob(str(place), recursive=True))]
    return [pair for path in found if _is_image(path) or path.is_dir() for pair in _below(path)]


def _below(path: Path) -> list[tuple[Path, str]]:
    """A file's name, with its folder's name in front where it was found in a folder."""
    if path.is_dir():
        return [(file, f"{path.name}/{name}") for file, name in _files(path, None)]
    return [(path, path.name)]


def _is_image(path: Path) -> bool:
    return is_image(path.name) and path.is_file() and not path.name.startswith(".")


def _as_it_is(parcel: Any) -> Any:
    return parcel
