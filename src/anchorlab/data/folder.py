"""Readers of data sets in folders: recognise the layout, read one split at a time, check what was read.

Which layouts there are is layout.py's part, what annotations say the formats', which images validate module.py's.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import ClassVar, TypeVar

from rich.console import Console

from anchorlab.console import bar
from anchorlab.data.checks import Checker, Entry
from anchorlab.data.headers import Header, ImageRules, pillow_without_limit, read_header
from anchorlab.data.layout import Categories, Difficult, Found, Part, Source, Template, recognise, recognise_at
from anchorlab.data.naming import AUTO, Naming, Undivided
from anchorlab.data.sample import SPLITS, DataError, Problem, Record
from anchorlab.data.tree import Tree

AT_ONCE = 256  # headers read by threads together
THREADS = 4
YAML = (".yaml", ".yml")
ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "annots")

T = TypeVar("T")


class FolderReader:
    """Reads a data set of a layout that recognisers know.

    Args:
        train, val, test: what the data set calls each split, where it is no usual name; None: there is none.
        root: the data set's folder, or the data.yaml or annotation file that tells where things are; `~` is the home.

    Attributes:
        image_rules: how image files are taken; to be set before anything is read.
        remarks: what a person should know of how the data was read, each once.
    """

    format: str | None = None  # None: any
    difficult: Difficult = "ignore"
    needs_boxes = True

    def __init__(self, train: str | None = AUTO, val: str | None = AUTO, test: str | None = AUTO, *, root: str | Path):
        self.root = Path(root).expanduser()
        self.names = {"train": train, "val": val, "test": test}
        self.image_rules = ImageRules()
        self.remarks: list[str] = []
        self._categories = Categories()
        self._counts: dict[str, int] = {}
        self._used: set[Path] = set()

    @property
    def categories(self) -> list[str]:
        return self._categories.names

    @property
    def naming(self) -> Naming:
        """The words of each split; an annotation file that is named itself is all there is, whatever its name says."""
        alone = self.root.is_file() and self.root.suffix.lower() not in YAML
        return Undivided() if alone else Naming(self.names)

    @cached_property
    def tree(self) -> Tree:
        """The files below the root; of a root that is a file, those around it."""
        if self.root.is_dir():
            return Tree(self.root)
        if not self.root.is_file():
            raise DataError(f"data.root={self.root} does not exist: name the folder, or file, of the data set")
        folder = self.root.parent
        return Tree(folder.parent if folder.name.lower() in ANNOTATION_FOLDERS else folder)

    @cached_property
    def found(self) -> Found:
        """What the folder turned out to be. `DataError` where that is nothing, or two things."""
        if self.root.is_file():
            self.tree.others = self._only_the_file()
        return recognise(self.tree, self.naming, self.format)

    def splits(self) -> list[str]:
        return [split for split in SPLITS if split in self.found.parts]

    def read(self, split: str) -> tuple[list[Record], list[Problem]]:
        """Images in the order of the annotations, or of the files' names; see `sample.Reader`."""
        part = self.found.parts[split]
        checker = Checker(self.image_rules)
        source = Source(self.tree, self._categories, checker, self.difficult, self.needs_boxes)
        records = self._records(self.found.entries(part, source), source, part)
        checker.settle(records)
        self._counts[split] = len(records)
        self._used.update(record.path for record in records)
        self._remark(source)
        return records, checker.problems

    def taken(self) -> list[str]:
        """What was recognised, as lines for a person: layout, splits with their images, classes; what is not used."""
        found = self.found
        classes = f"{len(self.categories):,} class{'es' * (len(self.categories) != 1)}"
        lines = [", ".join([found.layout, *(self._part_line(split) for split in self.splits()), classes])]
        unused = {what: number for what, number in {**found.unused, **self._unused_images()}.items() if number}
        if unused:
            lines.append("found and not used: " + ", ".join(f"{what}: {number:,}" for what, number in unused.items()))
        return [*lines, *dict.fromkeys([*found.remarks, *self.remarks])]

    def _part_line(self, split: str) -> str:
        part = self.found.parts[split]
        name = split if part.name in ("", split) else f"{part.name} -> {split}"
        count = self._counts.get(split, part.images)
        return name if count is None else f"{name} {count:,}"

    def _unused_images(self) -> dict[str, int]:
        """Images that no split takes; not counted while annotations that may name them have not been read."""
        used = set(self._used)
        for split, part in self.found.parts.items():
            if split not in self._counts:
                if part.files:
                    return {}
                used.update(image for image, _ in part.pairs if image is not None)
        return {"images": len(self.tree.images) - sum(path.is_relative_to(self.tree.root) for path in used)}

    def _records(self, entries: Iterator[Entry], source: Source, part: Part) -> list[Record]:
        records: list[Record] = []
        checker = source.checker
        with ThreadPoolExecutor(THREADS) as pool, pillow_without_limit(), bar(Console(stderr=True)) as shown:
            task = shown.add_task("reading image headers", total=part.images)
            for group in _groups(entries, AT_ONCE):
                new = [entry for entry in group if checker.is_new(entry)]
                for entry, header in zip(new, pool.map(self._header, new), strict=True):
                    if isinstance(header, Header):
                        record = checker.record(entry, header, len(records))
                        records += [] if record is None else [record]
                    else:
                        checker.note(entry.path, f"image {entry.image_id}", str(header))
                shown.advance(task, len(group))
        return records

    def _header(self, entry: Entry) -> Header | OSError:
        try:
            return read_header(entry.path, self.image_rules.megapixels)
        except OSError as error:
            return error

    def _remark(self, source: Source) -> None:
        checker = source.checker
        if checker.turned:
            source.remarks.append(f"{_counted('images', checker.turned)} turned by their EXIF orientation (data.exif)")
        if checker.deep:
            source.remarks.append(
                f"{_counted('images', checker.deep)} of more than 8 bits: scaled by the bits they use"
            )
        self.remarks += [remark for remark in source.remarks if remark not in self.remarks]

    def _only_the_file(self) -> dict[str, list[str]]:
        name = self.root.relative_to(self.tree.root).as_posix()
        if self.root.suffix.lower() in YAML:  # which speaks of lists and labels around it
            return {".txt": self.tree.others.get(".txt", []), self.root.suffix.lower(): [name]}
        return {self.root.suffix.lower(): [name]}


class TemplateReader(FolderReader):
    """A `FolderReader` of one format that can also be told where images and annotations lie.

    Args:
        images: image folder under `root`, e.g. "images/{split}".
        annotations: file or folder of annotations under `root`, e.g. "labels/{split}". With both None they are
            found; with one None, the other is the format's usual one.
        train, val, test: what replaces `{split}` for each split, and else as in `FolderReader`.
    """

    format: str
    usual: ClassVar[Template]

    def __init__(
        self,
        images: str | None = None,
        annotations: str | None = None,
        train: str | None = AUTO,
        val: str | None = AUTO,
        test: str | None = AUTO,
        *,
        root: str | Path,
    ):
        super().__init__(train, val, test, root=root)
        self.template = None
        if images is not None or annotations is not None:
            self.template = Template(images or self.usual.images, annotations or self.usual.annotations)

    @cached_property
    def found(self) -> Found:
        if self.template is None:
            return super().found
        if not self.root.is_dir():
            raise DataError(f"data.root={self.root} is not a folder: name the one that holds the data set")
        found = recognise_at(self.tree, self.naming, self.format, self.template)
        if not found.parts:
            raise DataError(
                f"data.root={self.root} holds no {self.template}: set data.reader.images and data.reader.annotations "
                "to where they are, or both to null to have them found"
            )
        return found


def _groups(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while group := list(islice(items, size)):
        yield group


def _counted(what: str, number: int) -> str:
    """`1 image`, `12 images`; what is no plural stays as it is."""
    return f"{number:,} {what[:-1] if number == 1 and what.endswith('s') else what}"
