"""PASCAL VOC's XML -> records: one file an image, corners that count pixels from 1, `difficult` boxes.

An `<object>` is an object of the image; the `<part>`s nested in it (head, hand, foot) are not.
torchvision's reader returns the parsed tree and leaves corners, difficult boxes and errors to its caller,
so that the tree is read here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from anchorlab.data.checks import Checker, RawBox, Size
from anchorlab.data.layout import list_images
from anchorlab.data.sample import DataError, Problem, Record
from anchorlab.signatures import checked

LISTS = "ImageSets/Main"
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@checked
class VocReader:
    """Reads a folder laid out as VOC2007 is.

    Args:
        images, annotations: folders under `root`. The image of `<stem>.xml` is `<stem>.jpg` (or another
            suffix), else the `<filename>` the annotation names.
        train, val, test: each split's list of stems is `ImageSets/Main/<name>.txt`; None: there is no such
            split. Without any list all annotations are one undivided data set.
        difficult: "ignore": difficult boxes are neither object nor background; "keep": as any other;
            "drop": as if they were not there.
        root: the data set's folder; `~` is the home.

    Image ids are stems. Corners become (xmin - 1, ymin - 1, xmax, ymax): 1-based inclusive to 0-based
    exclusive.
    """

    def __init__(
        self,
        images: str = "JPEGImages",
        annotations: str = "Annotations",
        train: str | None = "train",
        val: str | None = "val",
        test: str | None = "test",
        difficult: Literal["ignore", "keep", "drop"] = "ignore",
        *,
        root: str | Path,
    ):
        self.root = Path(root).expanduser()
        self.images = self.root / images
        self.annotations = self.root / annotations
        self.names = {"train": train, "val": val, "test": test}
        self.difficult = difficult
        self.categories: list[str] = []

    def splits(self) -> list[str]:
        if not self.annotations.is_dir():
            raise DataError(f"data.root={self.root} is no VOC folder: {self.annotations} does not exist")
        lists = {split: self._list(split) for split, name in self.names.items() if name is not None}
        existing = [split for split, file in lists.items() if file.is_file()]
        others = sorted(file.stem for file in (self.root / LISTS).glob("*.txt"))
        if others and not existing:
            raise DataError(
                f"{self.root / LISTS} holds none of {', '.join(file.name for file in lists.values())}: "
                f"set data.reader.train, val and test to some of {', '.join(others)}"
            )
        return existing or ["train"]

    def read(self, split: str) -> tuple[list[Record], list[Problem]]:
        """Images in the order of the split's list (without one, by stem), boxes in the order of their file."""
        images = {path.stem: path for path in reversed(list_images(self.images))}
        checker = Checker()
        records = []
        for stem in self._stems(split):
            file = checker.path(self._list(split), stem, self.annotations, f"{stem}.xml")
            if file is None:
                continue
            record = self._read_image(stem, file, images.get(stem), checker)
            if record is not None:
                records.append(record)
        return records, checker.problems

    def _list(self, split: str) -> Path:
        return self.root / LISTS / f"{self.names[split]}.txt"

    def _stems(self, split: str) -> list[str]:
        """Lists of one category have a second column (1, 0, -1), which is about that category alone."""
        file = self._list(split)
        if not file.is_file():
            return sorted(path.stem for path in self.annotations.glob("*.xml"))
        return [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]

    def _read_image(self, stem: str, file: Path, image: Path | None, checker: Checker) -> Record | None:
        """`image` is the file of that stem, if there is one."""
        try:
            root = defusedxml.ElementTree.fromstring(file.read_bytes())
        except FileNotFoundError:
            checker.note(file, f"image {stem}", "missing annotation")
            return None
        except (OSError, ParseError, DefusedXmlException) as error:
            checker.note(file, f"image {stem}", "unreadable annotation", str(error))
            return None
        named = checker.path(file, stem, self.images, root.findtext("filename") or f"{stem}.jpg")
        if named is None:
            return None
        path = image or named
        size = checker.size(file, stem, path, _declared_size(root))
        if size is None:
            return None
        return checker.record(file, stem, path, size, self._boxes(root, file, checker))

    def _boxes(self, root: Element, file: Path, checker: Checker) -> Iterator[RawBox]:
        for number, node in enumerate(root.findall("object"), start=1):
            category = node.findtext("name", "").strip()
            name = f"object {number} ({category})"
            difficult = node.findtext("difficult", "0").strip() == "1"
            if difficult and self.difficult == "drop":
                continue
            if not category:
                checker.note(file, f"image {file.stem}, {name}", "object without a name")
                continue
            corners = [node.findtext(f"bndbox/{corner}", "") for corner in CORNERS]
            try:
                written = tuple(map(float, corners))
            except ValueError:
                checker.note(file, f"image {file.stem}, {name}", "corners are not four numbers", corners)
                continue
            yield self._box(name, written, self._category_index(category), difficult)

    def _box(self, name: str, written: tuple[float, ...], category: int, difficult: bool) -> RawBox:
        xmin, ymin, xmax, ymax = written
        return RawBox(
            name=name,
            written=written,
            extent=(xmax - xmin, ymax - ymin),
            xyxy=(_from_one(xmin), _from_one(ymin), xmax, ymax),
            category=category,
            ignore=difficult and self.difficult == "ignore",
        )

    def _category_index(self, name: str) -> int:
        if name not in self.categories:
            self.categories.append(name)
        return self.categories.index(name)


def _from_one(corner: float) -> float:
    """1-based to 0-based. A 0 stays 0: tools that count from 0 write it, and no pixel lies before it."""
    return max(corner - 1, min(corner, 0.0))


def _declared_size(root: Element) -> Size | None:
    """None where the annotation gives no size."""
    try:
        height, width = (int(root.findtext(f"size/{side}", "")) for side in ("height", "width"))
    except ValueError:
        return None
    return height, width
