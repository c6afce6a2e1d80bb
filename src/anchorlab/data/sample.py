"""Records and samples: an image and its boxes as annotations have them, and decoded; no tensors yet.

A record is what annotations and image headers say of one image, checked once at set-up; a sample adds its
pixels. Neither knows the size the network works at (resize.py) nor its neighbours in a batch (batch.py).

G ground-truth boxes of one image; boxes are xyxy in pixels of the image, right and bottom exclusive.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from anchorlab.data.headers import ImageRules
from anchorlab.errors import UserError

SPLITS = ("train", "val", "test")
LINES = 10
"""Lines that a list of problems may take on a screen."""


@dataclass(frozen=True)
class Record:
    """One image before it is decoded.

    Boxes keep the precision of the file (float64), so that recall equals that of a reference which reads the
    same file. They may reach beyond the image by the pixel that rounding costs, never by more.
    """

    image_id: int | str
    path: Path
    height: int
    width: int
    boxes: np.ndarray  # (G, 4) float64
    area: np.ndarray  # (G,) float64, the annotation's where it has one, else the box's
    category: np.ndarray  # (G,) int64, index into the reader's categories
    ignore: np.ndarray  # (G,) bool, crowds and difficult boxes: neither object nor background
    known: np.ndarray | None = None  # (G,) bool, of categories trained on, where only others are scored; None: no box
    orientation: int = 1  # EXIF's number for the turn that brings the stored pixels into the frame of the boxes


@dataclass(frozen=True)
class Sample:
    """One decoded image and its boxes, all inside it. Without boxes the arrays are (0, 4) and (0,)."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    boxes: np.ndarray  # (G, 4) float32
    area: np.ndarray  # (G,) float32, in pixels of this image
    category: np.ndarray  # (G,) int64
    ignore: np.ndarray  # (G,) bool
    image_id: int | str


@dataclass(frozen=True)
class Problem:
    """One fault of a data set: where (`file`, `id`), what (`message`), and the value as it is written."""

    file: Path
    id: str
    message: str
    value: object = None
    harmless: bool = False  # mended without a doubt (a box clipped at the border), never a reason to stop

    def __str__(self) -> str:
        value = "" if self.value is None else f": {self.value!r}"
        return f"{self.file}: {self.id}: {self.message}{value}"

    @property
    def kind(self) -> str:
        """The message without its numbers: what several problems have in common."""
        return re.sub(r"\d+(\.\d+)?", "#", self.message)


class DataError(UserError):
    """Data that cannot be used as it is. `problems` lists each fault where there are several, the text at most ten."""

    listing: Path | None = None
    """The file that has all problems, where one was written."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()):
        super().__init__("\n".join([message, *(f"  {line}" for line in summary(problems))]))
        self.problems = list(problems)

    def appendix(self) -> str:
        """Where all problems are, of which the text shows only some; they are written to a file first if need be."""
        if len(self.problems) <= LINES:
            return ""
        if self.listing is None:
            self.listing = Path(tempfile.mkdtemp(prefix="anchorlab-")) / "problems.txt"
            self.listing.write_text("".join(f"{problem}\n" for problem in self.problems), encoding="utf-8")
        return f"all {len(self.problems):,} of them: {self.listing}"

    @classmethod
    def of(cls, problem: Problem) -> "DataError":
        """One fault that is the whole message."""
        error = cls(str(problem))
        error.problems = [problem]
        return error


def summary(problems: Sequence[Problem]) -> list[str]:
    """At most `LINES` lines: each problem, or of very many the first of each kind with the number of its like."""
    if len(problems) <= LINES:
        return list(map(str, problems))
    kinds = Counter(problem.kind for problem in problems)
    lines = []
    for problem in problems:
        more = kinds.pop(problem.kind, 0) - 1
        if more >= 0:
            lines.append(f"{problem} (and {more:,} more like it)" if more else str(problem))
    left = len(lines) - LINES + 1
    return lines if left <= 1 else [*lines[: LINES - 1], f"and {left:,} more kinds"]


class Reader(Protocol):
    """A data set on disk, one split at a time.

    A reader that also has `taken()`, lines for a person that say what it took the data for, has them printed.
    """

    image_rules: ImageRules
    """How image files are to be taken; set before anything is read."""

    @property
    def categories(self) -> list[str]:
        """The name of each category index met so far: `read` appends, and never changes an earlier entry."""
        ...

    def splits(self) -> list[str]:
        """Those of `SPLITS` that exist. A data set that is not divided is "train" alone."""
        ...

    def read(self, split: str) -> tuple[list[Record], list[Problem]]:
        """The split's usable images in a fixed order, and every problem met on the way, the harmless ones too."""
        ...


# (sample, generator, draw) -> sample, where draw(i) decodes training image i modulo their number.
Augment = Callable[[Sample, np.random.Generator, Callable[[int], Sample]], Sample]
