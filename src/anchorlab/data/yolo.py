"""YOLO's text labels -> entries: a line a box, `class cx cy w h` in shares of the image, or a polygon.

Labels name neither image nor size: sizes come from the image headers. An image without a label file, or with an
empty one, holds no object.
"""

from collections.abc import Iterator, Mapping
from functools import partial

from anchorlab.data.checks import Corners, Entry, RawBox
from anchorlab.data.folder import TemplateReader
from anchorlab.data.labels import Row, commas_or_blanks, label_entries, numbers
from anchorlab.data.layout import Part, Source, Template
from anchorlab.data.sample import DataError

NUM_FIELDS = 5  # class, centre x, centre y, width, height
LARGEST_SHARE = 2.0  # a number above is no share of anything, however far a box reaches over the border
CORNERS = "write `class cx cy w h`, all but the class in shares of the image"


class Rows:
    """What the rows of one part have in common: how many fields they have, whether they can be shares at all.

    Args:
        names: of the classes; empty: their numbers are their names.
        keypoints: numbers that follow each box, of pose labels; None: not known.
    """

    def __init__(self, source: Source, names: Mapping[int, str], keypoints: int | None = None):
        self.source = source
        self.names = names
        self.keypoints = keypoints
        self.corners = Corners(CORNERS)
        self.count = self.too_large = 0

    def parse(self, row: Row, name: str) -> RawBox:
        number, values = _class_number(row[0]), numbers(row[1:])
        category = self.names.get(number) if self.names else str(number)
        if number < 0 or category is None:
            raise ValueError(f"unknown class {number}")
        if len(row) < NUM_FIELDS:
            raise ValueError(f"{len(row)} fields, not the {NUM_FIELDS} of `class cx cy w h`")
        cx, cy, w, h = self._box(values)
        xyxy = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        self.count += 1
        self.too_large += max(cx, cy, w, h) > LARGEST_SHARE
        self.corners.see((cx, cy, w, h), (1, 1), xyxy[2], xyxy[3])
        return RawBox(name, (cx, cy, w, h), (w, h), xyxy, self.source.categories.index(category), shares=True)

    def _box(self, values: list[float]) -> tuple[float, float, float, float]:
        """(cx, cy, w, h) of a row: a box, a box and its confidence or keypoints, or the box around a polygon."""
        extra = len(values) - 4
        if extra == 0:
            pass
        elif extra == 1:
            self._remark("a sixth column, a confidence, is not used")
        elif extra == self.keypoints or (self.keypoints is None and _has_visibility(values[4:])):
            self._remark("keypoints are not used")
        elif len(values) % 2 == 0:
            self._remark("polygons and oriented boxes count by their bounding boxes")
            xs, ys = values[0::2], values[1::2]
            return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)
        else:
            raise ValueError(f"{len(values) + 1} fields, neither the {NUM_FIELDS} of `class cx cy w h` nor a polygon")
        cx, cy, w, h = values[:4]
        return cx, cy, w, h

    def _remark(self, text: str) -> None:
        if text not in self.source.remarks:
            self.source.remarks.append(text)

    def check(self, part: Part) -> None:
        """Raise `DataError` where the part as a whole is written in another way."""
        file = next(file for _, file in part.pairs if file is not None)
        if self.too_large > self.count / 2:
            raise DataError(
                f"{file.parent}: the numbers of {self.too_large} of {self.count} boxes are pixels, where YOLO's are "
                "shares of the image's width and height: divide them, x and w by the width, y and h by the height"
            )
        self.corners.check(file.parent)


def yolo_entries(part: Part, source: Source, keypoints: int | None = None) -> Iterator[Entry]:
    """Images in the order of the part, boxes in the order of their file; `part.names` names the classes."""
    for number in sorted(part.names):
        source.categories.index(part.names[number])
    rows = Rows(source, part.names, keypoints)
    yield from label_entries(part, source, rows.parse, commas_or_blanks)
    if rows.count:
        rows.check(part)


def with_keypoints(count: int | None) -> partial[Iterator[Entry]]:
    return partial(yolo_entries, keypoints=count)


def _class_number(field: str) -> int:
    """Also of `0.0`, as numpy writes it."""
    try:
        number = float(field)
    except ValueError:
        raise ValueError(f"{field!r} is no class number") from None
    if not number.is_integer():
        raise ValueError(f"{field!r} is no whole class number")
    return int(number)


def _has_visibility(values: list[float]) -> bool:
    """Whether numbers are points of x, y and COCO's visibility, of which a 2 is no share."""
    flags = values[2::3]
    return len(values) % 3 == 0 and set(flags) <= {0, 1, 2} and 2 in flags


class YoloReader(TemplateReader):
    """Reads YOLO's labels from wherever they lie, or from where `images` and `annotations` say; see `TemplateReader`.

    A data.yaml is followed as Ultralytics follows it; without one, labels are those of the same names beside their
    images or in a folder `labels` in place of `images`. Classes are named by data.yaml, classes.txt, obj.names and the
    like, else by their numbers. Image ids are stems, or paths where stems repeat.
    """

    format = "yolo"
    usual = Template("images", "labels")
