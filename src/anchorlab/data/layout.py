"""Layout of a data set's folder: which files belong to which split, and which format reads them.

Recognisers (the modules of `layouts`) propose, `recognise` chooses, and refuses where two readings fit. Annotations are
read by the formats (coco.py, voc.py, yolo.py, ...).
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Literal

from anchorlab.data import layouts
from anchorlab.data.checks import Checker, Entry
from anchorlab.data.naming import LEFT_OUT, Naming
from anchorlab.data.sample import SPLITS, DataError
from anchorlab.data.tree import Tree

SPLIT = "{split}"


Difficult = Literal["ignore", "keep", "drop"]


class Categories:
    """Names of categories, numbered as they are met; the names of a data set that lists them come first."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._index: dict[str, int] = {}

    def index(self, name: str) -> int:
        if name not in self._index:
            self._index[name] = len(self.names)
            self.names.append(name)
        return self._index[name]


@dataclass(frozen=True)
class Part:
    """The files of one split.

    Attributes:
        name: what the data set calls it, "" where it has no name.
        pairs: (image, annotation) of formats with a file for each image; None where there is none.
        files: annotations that are about many images each.
        folders: where images named in annotations may lie, relative to the root, the likeliest first.
        anywhere: whether an image elsewhere is taken too, where exactly one has the name.
        names: of classes that annotations give as numbers.
    """

    name: str
    pairs: Sequence[tuple[Path | None, Path | None]] = ()
    files: Sequence[Path] = ()
    folders: Sequence[str] = ()
    anywhere: bool = True
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def images(self) -> int | None:
        """How many there are; None where only the annotations tell."""
        return None if self.files else len(self.pairs)


@dataclass(frozen=True)
class Source:
    """What a format needs beside a part: the listing of the folder, the categories, and where faults are noted.

    Attributes:
        difficult: what becomes of boxes that are marked as difficult: "ignore": neither object nor background; "keep":
            as any other; "drop": as if they were not there.
        needs_boxes: whether images without annotations are refused, as training wants it.
        remarks: what a person should know of how the part was read.
    """

    tree: Tree
    categories: Categories
    checker: Checker
    difficult: Difficult = "ignore"
    needs_boxes: bool = True
    remarks: list[str] = field(default_factory=list)


Entries = Callable[[Part, Source], Iterator[Entry]]


@dataclass(frozen=True)
class Found:
    """One reading of a folder.

    Attributes:
        layout: its name for people, "Roboflow YOLO".
        format: the word that forces it, as in `data.reader.format=yolo`.
        entries: reads a part.
        parts: by split.
        where: the file or folder that it was recognised by, for a sentence that has to name it.
        rank: of several readings in one format the one of the lowest counts: what a file says goes before names.
        derived: whether other annotations go first where there are any, as tables are often made from them.
        remarks: what a person should know of the reading.
        unused: numbers of things that were found and are not used, by what they are.
    """

    layout: str
    format: str
    entries: Entries
    parts: Mapping[str, Part]
    where: str
    rank: int = 1
    derived: bool = False
    remarks: Sequence[str] = ()
    unused: Mapping[str, int] = field(default_factory=dict)


Recogniser = Callable[[Tree, Naming], Found | None]


def recognise(tree: Tree, naming: Naming, format: str | None = None) -> Found:
    """The one reading of a folder, of all formats or of one.

    Raises:
        DataError: no reading, with what lies there instead; or two of different formats, with the override for each.
    """
    readings: dict[str, Found] = {}
    for look in recognisers(format):
        found = look(tree, naming)
        if (
            found is not None
            and found.parts
            and (found.format not in readings or found.rank < readings[found.format].rank)
        ):
            readings[found.format] = found
    first = [found for found in readings.values() if not found.derived] or list(readings.values())
    if not first:
        raise DataError(_nothing_found(tree, format))
    if len(first) > 1:
        ways = " or ".join(f"{found.layout} ({found.where}: data.reader.format={found.format})" for found in first)
        raise DataError(f"data.root={tree.root} can be read as {ways}: set the one that is meant")
    others = [found for found in readings.values() if found is not first[0]]
    unused = {f"{found.layout} ({found.where})": 1 for found in others}
    return replace(first[0], unused={**first[0].unused, **unused})


def recognise_at(tree: Tree, naming: Naming, format: str, template: "Template") -> Found:
    """The reading of a format whose places are given; without parts where nothing lies there."""
    return importlib.import_module(f"{layouts.__name__}.{format}").recognise_at(tree, naming, template)


def recognisers(format: str | None = None) -> list[Recogniser]:
    """Those of all modules of `layouts`, or of one format; a module names its format in `FORMAT`."""
    return [module.recognise for module in _modules() if format in (None, module.FORMAT)]


def formats() -> list[str]:
    """The words that `data.reader.format` takes."""
    return sorted({module.FORMAT for module in _modules()})


def _modules() -> list[ModuleType]:
    """Those of `layouts` that recognise something; others there hold what several share."""
    names = (module.name for module in pkgutil.iter_modules(layouts.__path__))
    modules = [importlib.import_module(f"{layouts.__name__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, "FORMAT")]


def by_split(names: Iterable[str], split_of: Callable[[str], str | None]) -> tuple[dict[str, list[str]], int]:
    """Names grouped by split, and how many belong to none of them.

    Where no name speaks of a split all are "train". Where only some do, the others are left out and counted, as are
    those of splits that are not wanted.
    """
    groups: dict[str | None, list[str]] = {}
    for name in names:
        groups.setdefault(split_of(name), []).append(name)
    unwanted = len(groups.pop(LEFT_OUT, ()))
    undivided = groups.pop(None, [])
    found = {split: groups[split] for split in SPLITS if split in groups}
    if found:
        return found, unwanted + len(undivided)
    return ({"train": undivided} if undivided else {}), unwanted


def folders_for(tree: Tree, beside: str, name: str, split: str, naming: Naming) -> list[str]:
    """Where the images of an annotation file may lie: beside it, in the usual places, wherever no other split's are.

    Args:
        beside: the file's folder.
        name: the file's stem, `instances_train2017`; its last word may be that of a folder.
        split: the split that it is the annotations of.
    """
    words = dict.fromkeys([name, name.removeprefix("instances_"), name.rpartition("_")[2], split, f"{split}2017"])
    usual = [beside, "", "images"]
    usual += [f"{folder}{word}" for word in words for folder in ("images/", "")]
    usual += [f"{beside}/images" if beside else "images", "data", "JPEGImages"]
    others = []
    for folder in tree.image_folders:
        parts = folder.split("/") if folder else []
        others += ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]
    return [
        folder
        for folder in dict.fromkeys([*usual, *others])
        if folder == beside or naming.of_parts(reversed(folder.split("/"))) in (None, LEFT_OUT, split)
    ]


def _nothing_found(tree: Tree, format: str | None) -> str:
    what = f"no {format} annotations" if format else "no annotations that are known"
    counts = [f"{len(tree.images):,} images"]
    counts += [f"{len(names):,} {suffix or 'other'} files" for suffix, names in sorted(tree.others.items())][:5]
    if not tree.images and not any(tree.others.values()):
        return f"data.root={tree.root} is empty: name the folder that holds the data set"
    return (
        f"data.root={tree.root} holds {what} ({', '.join(counts)}): docs/data.md lists the layouts; name the folder "
        "above the images and their annotations, or the annotation file itself"
    )


@dataclass(frozen=True)
class Template:
    """Where settings say that the images lie and the annotations, relative to the data set's root.

    `{split}` stands for a split's own name; where `annotations` has none the data set is not divided.
    """

    images: str
    annotations: str

    def places(self, tree: Tree, naming: Naming) -> Iterator[tuple[str, str, str, str]]:
        """(split, its name, image folder, annotations) of each split whose annotations are there; names below the root.

        Raises:
            DataError: a place that lies outside of the root.
        """
        named = {split: naming.word(split) for split in SPLITS} if SPLIT in self.annotations else {"train": ""}
        for split, word in named.items():
            if word is not None:
                images, annotations = (
                    _below(tree, text.replace(SPLIT, word)) for text in (self.images, self.annotations)
                )
                if tree.path(annotations).exists():
                    yield split, word, images, annotations

    def __str__(self) -> str:
        return f"{self.images}/ with {self.annotations}"


def _below(tree: Tree, place: str) -> str:
    """A place as a name below the root, "" for the root itself."""
    path = tree.root / place
    if ".." in path.parts or not path.is_relative_to(tree.root):
        raise DataError(
            f"{place} does not lie below data.root={tree.root}: set data.root to the folder above all of it"
        )
    name = path.relative_to(tree.root).as_posix()
    return "" if name == "." else name
