"""What can be wrong with a data set, judged once for every format; not a repair of annotations.

A reader hands over what a file says (`RawBox`); the `Checker` gives back what can be used and notes each
fault as a `Problem` with file, id and value. A bad box costs the box, a bad image the image. Images are
judged by their header and last bytes, and decoded only where these leave a doubt. EXIF orientation is
ignored.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import cv2
import numpy as np
from PIL import Image

from anchorlab.data.sample import Problem, Record

TOLERANCE = 1.0  # pixels a box may reach beyond its image: what rounding and 0- or 1-based counting cost
START_MARKS = (b"\xff\xd8", b"\x89PNG")  # JPEG, PNG
END_MARKS = (b"\xff\xd9", b"IEND\xae\x42\x60\x82")
MARK_LENGTH = max(map(len, END_MARKS))
Size = tuple[int, int]  # height, width
XYXY = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class RawBox:
    """One box as its file writes it, and what the format makes of it."""

    name: str  # how a problem names it
    written: tuple[float, ...]  # the file's own numbers
    extent: tuple[float, float]  # width and height on the numbers as written
    xyxy: XYXY  # pixels, right and bottom exclusive
    category: int
    ignore: bool = False
    area: float | None = None  # None: the area of the box


class Checker:
    """Checks the images of one split and collects `problems`; ids are unique within it."""

    def __init__(self):
        self.problems: list[Problem] = []
        self._ids: set[int | str] = set()

    def note(self, file: Path, id: str, message: str, value: object = None) -> None:
        self.problems.append(Problem(file, id, message, value))

    def path(self, file: Path, image_id: int | str, folder: Path, name: object) -> Path | None:
        """`folder` / `name` where the name from annotation `file` stays inside the folder, else None.

        Absolute names and `..` are refused in either system's spelling; symbolic links are the user's own.
        """
        if not isinstance(name, str) or not name:
            self.note(file, f"image {image_id}", "no file name", name)
            return None
        parts = PureWindowsPath(name)  # splits at both kinds of slash
        if parts.anchor or ".." in parts.parts:
            self.note(file, f"image {image_id}", "file name leaves the data folder", name)
            return None
        return folder / name

    def size(self, file: Path, image_id: int | str, path: Path, declared: Size | None) -> Size | None:
        """(height, width) of the image, None where it cannot be used. `declared` is the annotation's size."""
        if image_id in self._ids:
            self.note(file, f"image {image_id}", "duplicate image id", path.name)
            return None
        self._ids.add(image_id)
        try:
            size = image_size(path)
        except OSError as error:
            self.note(path, f"image {image_id}", str(error))
            return None
        if declared is not None and size != declared:
            message = f"image of {size[0]} x {size[1]} pixels (height x width), annotated as another size"
            self.note(file, f"image {image_id}", message, declared)
            return None
        return size

    def record(self, file: Path, image_id: int | str, path: Path, size: Size, raw: Iterable[RawBox]) -> Record:
        """The image with those of its boxes that can be used."""
        kept: list[RawBox] = []
        usable: list[XYXY] = []
        for box in raw:
            fault, xyxy = judge(box, size)
            if fault is not None:
                self.note(file, f"image {image_id}, {box.name}", fault, box.written)
            if xyxy is not None:
                kept.append(box)
                usable.append(xyxy)
        boxes = np.array(usable, np.float64).reshape(-1, 4)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        written_area = np.array([math.nan if box.area is None else box.area for box in kept], np.float64)
        return Record(
            image_id=image_id,
            path=path,
            height=size[0],
            width=size[1],
            boxes=boxes,
            area=np.where(np.isnan(written_area), area, written_area),
            category=np.array([box.category for box in kept], np.int64),
            ignore=np.array([box.ignore for box in kept], bool),
        )


def judge(box: RawBox, size: Size) -> tuple[str | None, XYXY | None]:
    """What is wrong with a box (None: nothing), and the box to use instead (None: leave it out).

    A box that reaches beyond its image by up to `TOLERANCE` stays as it is, further out it is clipped and
    reported.
    """
    if not all(map(math.isfinite, (*box.written, *box.xyxy))):
        return "box is not finite", None
    if box.area is not None and not (math.isfinite(box.area) and box.area >= 0):
        return f"area {box.area} is not a finite number of at least 0", None
    if min(box.extent) < 0:
        return "inverted box", None
    if min(box.extent) == 0:
        return "zero-area box", None
    height, width = size
    x1, y1, x2, y2 = box.xyxy
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return f"box outside its image of {height} x {width} pixels (height x width)", None
    inside = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    left, top, right, bottom = map(np.float32, inside)
    if left >= right or top >= bottom:
        return "zero-area box", None  # in the float32 of a `Sample`
    if max(-x1, -y1, x2 - width, y2 - height) > TOLERANCE:
        return f"box reaches beyond its image of {height} x {width} pixels (height x width), clipped", inside
    return None, box.xyxy


def image_size(path: Path) -> Size:
    """(height, width) of an image file that can be decoded; raises `OSError` that says why it cannot."""
    try:
        with path.open("rb") as file:
            image = Image.open(file)
            size = image.height, image.width
            file.seek(-MARK_LENGTH, 2)
            if not ends_whole(file.read()):
                file.seek(0)
                Image.open(file).load()
    except FileNotFoundError:
        raise OSError("missing image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"unreadable or truncated image: {error}") from None
    if image.format not in ("JPEG", "PNG") and not cv2.haveImageReader(str(path)):
        raise OSError(f"unreadable image: OpenCV reads no {image.format}")
    return size


def ends_whole(data: bytes) -> bool:
    """Whether the last bytes of an image file are the end mark of a JPEG or PNG; of others that cannot be told."""
    return data.endswith(END_MARKS)


def is_cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end mark: it may be truncated, or carry something behind the image."""
    return data.startswith(START_MARKS) and not ends_whole(data)
