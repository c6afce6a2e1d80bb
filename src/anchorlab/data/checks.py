"""Checks of annotations, the same for every format: note each fault and keep what can be used; guess nothing.

A reader hands over what a file says (`Entry`, `RawBox`); the `Checker` gives back what can be used and notes each
fault as a `Problem` with file, id and value. A bad box costs the box, a bad image the image; what can be mended
without a doubt is mended and noted as harmless. Images are judged by their header and last bytes, and decoded only
where these leave a doubt.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anchorlab.data.headers import Header, ImageRules, Size
from anchorlab.data.sample import DataError, Problem, Record

TOLERANCE = 1.0  # pixels a box may reach beyond its image: what rounding and 0- or 1-based counting cost
SUSPICIOUS = 0.1  # share of boxes over the border from which on they may be written in another way
XYXY = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class RawBox:
    """One box as its file writes it, and what the format makes of it."""

    name: str  # how a problem names it
    written: tuple[float, ...]  # the file's own numbers
    extent: tuple[float, float]  # width and height on the numbers as written
    xyxy: XYXY  # pixels, right and bottom exclusive; or shares of the image
    category: int
    ignore: bool = False
    area: float | None = None  # None: the area of the box
    shares: bool = False  # whether `xyxy` are shares of the image's width and height


@dataclass(frozen=True)
class Entry:
    """One image of an annotation file: the file, the image's id and path, the size it declares, its boxes."""

    file: Path
    image_id: int | str
    path: Path
    declared: Size | None
    boxes: Iterable[RawBox]


class Checker:
    """Checks the images of one split and collects `problems`; ids are unique within it.

    Args:
        rules: how image files are taken.
    """

    def __init__(self, rules: ImageRules | None = None):
        self.rules = rules or ImageRules()
        self.problems: list[Problem] = []
        self.turned = 0  # images whose orientation is obeyed
        self.deep = 0  # images of more than 8 bits a channel
        self._ids: set[int | str] = set()
        self._undecided: list[int] = []  # rows whose size is the same in both frames
        self._told = {"stored": 0, "shown": 0}  # by declared sizes, which frame the others are annotated in

    def note(self, file: Path, id: str, message: str, value: object = None, harmless: bool = False) -> None:
        self.problems.append(Problem(file, id, message, value, harmless))

    def is_new(self, entry: Entry) -> bool:
        """Whether this is the first image of its id; another one is a problem."""
        if entry.image_id in self._ids:
            self.note(entry.file, f"image {entry.image_id}", "duplicate image id", entry.path.name)
            return False
        self._ids.add(entry.image_id)
        return True

    def record(self, entry: Entry, header: Header, row: int = 0) -> Record | None:
        """The image with those of its boxes that can be used; None where its size is not the one declared.

        Args:
            row: of the record among those of the split; `settle` takes it up again.
        """
        frame = self._frame(entry, header, row)
        if frame is None:
            return None
        size, orientation = frame
        self.turned += orientation != 1
        self.deep += header.deep
        kept, usable = self._judged(entry, size)
        boxes = np.array(usable, np.float64).reshape(-1, 4)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        written_area = np.array([math.nan if box.area is None else box.area for box in kept], np.float64)
        return Record(
            image_id=entry.image_id,
            path=entry.path,
            height=size[0],
            width=size[1],
            boxes=boxes,
            area=np.where(np.isnan(written_area), area, written_area),
            category=np.array([box.category for box in kept], np.int64),
            ignore=np.array([box.ignore for box in kept], bool),
            orientation=orientation,
        )

    def settle(self, records: list[Record]) -> None:
        """Take images turned by 180 degrees, and square ones, as the others of the data set say they are annotated."""
        if self._told["stored"] > self._told["shown"]:
            for row in self._undecided:
                records[row] = replace(records[row], orientation=1)
            self.turned -= len(self._undecided)

    def _frame(self, entry: Entry, header: Header, row: int) -> tuple[Size, int] | None:
        """The size and the orientation in which the image is annotated."""
        turns = self.rules.exif != "ignore" and header.orientation != 1
        shown = (header.shown, header.orientation) if turns else (header.stored, 1)
        if entry.declared is None:
            return shown
        if turns and self.rules.exif == "auto" and header.stored == header.shown == entry.declared:
            self._undecided.append(row)
        elif turns and self.rules.exif == "auto" and entry.declared in (header.stored, header.shown):
            is_stored = entry.declared == header.stored
            self._told["stored" if is_stored else "shown"] += 1
            return (header.stored, 1) if is_stored else shown
        if entry.declared == shown[0]:
            return shown
        height, width = shown[0]
        message = f"image of {height} x {width} pixels (height x width), annotated as another size"
        if header.orientation != 1 and entry.declared in (header.stored, header.shown):
            message += f" (data.exif={self.rules.exif}: its EXIF orientation is {header.orientation})"
        elif entry.declared == (width, height):
            message += " (its sides are exchanged: turn the image, or mend the size)"
        self.note(entry.file, f"image {entry.image_id}", message, entry.declared)
        return None

    def _judged(self, entry: Entry, size: Size) -> tuple[list[RawBox], list[XYXY]]:
        kept: list[RawBox] = []
        usable: list[XYXY] = []
        for box in entry.boxes:
            fault, xyxy = judge(box, size)
            if fault is not None:
                harmless = xyxy is not None or (fault == EMPTY and box.area == 0)
                self.note(entry.file, f"image {entry.image_id}, {box.name}", fault, box.written, harmless)
            if xyxy is not None:
                kept.append(box)
                usable.append(xyxy)
        return kept, usable


class Corners:
    """Watches for boxes whose four numbers are corners where the format wants a corner, or the centre, and a size.

    Such boxes reach over the border as they are read, and never as corners; boxes of people who stand half outside
    of the picture do both.
    """

    def __init__(self, fix: str):
        self.fix = fix
        self.count = self.over = 0
        self.possible = True

    def see(self, written: tuple[float, ...], limits: tuple[float, float], right: float, bottom: float) -> None:
        """A box as `written`, in an image of `limits` (width, height), read up to (right, bottom) in the same unit."""
        a, b, c, d = written
        width, height = limits
        slack = TOLERANCE if width > 1 else 0.01
        self.count += 1
        self.over += right > width + slack or bottom > height + slack
        self.possible = self.possible and 0 <= a < c <= width + slack and 0 <= b < d <= height + slack

    def check(self, file: Path) -> None:
        """Raise `DataError` where all that was seen can be corners only."""
        if self.possible and self.count and self.over > SUSPICIOUS * self.count:
            raise DataError(
                f"{file}: {self.over} of {self.count} boxes reach over the border of their image as the format reads "
                f"them, and none if their four numbers are the corners x1, y1, x2, y2: {self.fix}"
            )


EMPTY = "zero-area box"


def judge(box: RawBox, size: Size) -> tuple[str | None, XYXY | None]:
    """What is wrong with a box (None: nothing), and the box to use instead (None: leave it out).

    A box that reaches beyond its image by up to `TOLERANCE` stays as it is, further out it is clipped and
    reported.
    """
    height, width = size
    x1, y1, x2, y2 = box.xyxy
    if box.shares:
        x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width, y2 * height
    if not all(map(math.isfinite, (*box.written, x1, y1, x2, y2))):
        return "box is not finite", None
    if box.area is not None and not (math.isfinite(box.area) and box.area >= 0):
        return f"area {box.area} is not a finite number of at least 0", None
    if min(box.extent) < 0:
        return "inverted box", None
    if min(box.extent) == 0:
        return EMPTY, None
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return f"box outside its image of {height} x {width} pixels (height x width)", None
    inside = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    left, top, right, bottom = map(np.float32, inside)
    if left >= right or top >= bottom:
        return EMPTY, None  # in the float32 of a `Sample`
    if max(-x1, -y1, x2 - width, y2 - height) > TOLERANCE:
        return f"box reaches beyond its image of {height} x {width} pixels (height x width), clipped", inside
    return None, (x1, y1, x2, y2)
