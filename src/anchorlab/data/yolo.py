"""YOLO's text labels -> records: a line a box, `class cx cy w h` in shares of the image; no polygons.

Labels name neither image nor size: the folder of images is the list, and sizes come from the image headers.
An image without a label file, or with an empty one, holds no object.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from anchorlab.data.checks import Checker, RawBox, Size
from anchorlab.data.layout import LayoutReader, Template, list_images
from anchorlab.data.sample import DataError, Problem, Record

NAMES, CLASSES = "data.yaml", "classes.txt"
NUM_FIELDS = 5  # class, centre x, centre y, width, height


class YoloReader(LayoutReader):
    """Reads a folder of images and a folder of labels, or a pair of them per split; arguments as in `LayoutReader`.

    Image ids are stems, and the label of `<stem>.jpg` is `<stem>.txt`. Classes are named by `names` in
    `data.yaml`, else by the lines of `classes.txt`, both under `root`; without either their numbers are their
    names. The paths in `data.yaml` are not followed.
    """

    undivided = Template("images", "labels")
    templates = (
        Template("images/{split}", "labels/{split}"),
        Template("{split}/images", "{split}/labels"),
        undivided,
    )

    def read(self, split: str) -> tuple[list[Record], list[Problem]]:
        """Images sorted by name, boxes in the order of their file."""
        layout = self.layout()
        images, labels = list_images(layout.images(split)), layout.annotations(split)
        names = _class_names(self.root)
        for name in names.values():
            self.category_index(name)
        checker = Checker()
        records = []
        for path in images:
            size = checker.size(path, path.stem, path, declared=None)
            if size is not None:
                file = labels / f"{path.stem}.txt"
                boxes = self._boxes(file, size, names, checker)
                records.append(checker.record(file, path.stem, path, size, boxes))
        _note_orphans(labels, {path.stem for path in images}, checker)
        return records, checker.problems

    def _boxes(self, file: Path, size: Size, names: Mapping[int, str], checker: Checker) -> Iterator[RawBox]:
        """The boxes of a label file; none where there is no file. Without `names` a class is its number."""
        if not file.is_file():
            return
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"image {file.stem}, line {number}"
            try:
                class_number, shares = _numbers(line)
            except ValueError as error:
                checker.note(file, where, str(error), line)
                continue
            name = names.get(class_number) if names else str(class_number)
            if name is None:
                checker.note(file, where, "unknown class", class_number)
            else:
                yield _box(f"line {number}", shares, size, self.category_index(name))


def _numbers(line: str) -> tuple[int, list[float]]:
    """Class number and (cx, cy, w, h) of a line; `ValueError` says what it is instead."""
    fields = line.split()
    if len(fields) > NUM_FIELDS + 1 and len(fields) % 2:
        raise ValueError("a polygon, not a box: convert segmentation labels to `class cx cy w h`")
    if len(fields) != NUM_FIELDS:
        raise ValueError(f"{len(fields)} fields, not the {NUM_FIELDS} of `class cx cy w h`")
    try:
        return int(fields[0]), [float(field) for field in fields[1:]]
    except ValueError:
        raise ValueError("not a whole class number and four numbers") from None


def _box(name: str, shares: list[float], size: Size, category: int) -> RawBox:
    height, width = size
    cx, cy, w, h = shares
    x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    xyxy = (x1 * width, y1 * height, x2 * width, y2 * height)
    return RawBox(name, written=(cx, cy, w, h), extent=(w, h), xyxy=xyxy, category=category)


def _class_names(root: Path) -> dict[int, str]:
    """Class number -> name, empty where the data set has no names."""
    named, listed = root / NAMES, root / CLASSES
    if named.is_file():
        try:
            content = yaml.safe_load(named.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise DataError(f"{named} is no YAML: {error}") from None
        names = content.get("names") if isinstance(content, dict) else None
        if not isinstance(names, list | dict):
            raise DataError(f"{named} has no list `names`: add it, or remove the file")
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(number): str(name) for number, name in pairs}
    if listed.is_file():
        lines = listed.read_text(encoding="utf-8").splitlines()
        return dict(enumerate(line.strip() for line in lines if line.strip()))
    return {}


def _note_orphans(labels: Path, stems: set[str], checker: Checker) -> None:
    """Labels that no image belongs to."""
    for file in sorted(labels.glob("*.txt")):
        if file.stem not in stems and file.name != CLASSES:
            checker.note(file, f"image {file.stem}", "missing image")
