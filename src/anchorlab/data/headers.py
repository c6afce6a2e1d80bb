"""Headers of image files: size, orientation, depth and wholeness, before any pixel is decoded.

Pixels are decode.py's. Pillow reads the headers; its own limit on pixels is replaced by `ImageRules.megapixels`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

Size = tuple[int, int]  # height, width

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".dib",
        ".webp",
        ".tif",
        ".tiff",
        ".gif",
        ".avif",
        ".jp2",
        ".j2k",
        ".jpf",
        ".jpx",
        ".mpo",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".ras",
        ".sr",
        ".tga",
    ]
)
START_MARKS = (b"\xff\xd8", b"\x89PNG")  # JPEG, PNG
END_MARKS = (b"\xff\xd9", b"IEND\xae\x42\x60\x82")
MARK_LENGTH = max(map(len, END_MARKS))
SIDEWAYS = 5  # EXIF orientations from here on exchange height and width
Exif = Literal["auto", "apply", "ignore"]


@dataclass(frozen=True)
class ImageRules:
    """How image files are taken.

    Attributes:
        exif: "auto": the size that an annotation declares says which frame it is about, and without one the
            orientation is obeyed; "apply" always obeys it, "ignore" never.
        megapixels: larger images are refused.
    """

    exif: Exif = "auto"
    megapixels: float = 180

    def __post_init__(self) -> None:
        if self.exif not in get_args(Exif):
            raise ValueError(f"data.exif={self.exif!r} must be one of {', '.join(get_args(Exif))}")


class Header(NamedTuple):
    """Of the pixels as they are stored; `orientation`: EXIF's number, 1 for a file that says nothing."""

    height: int
    width: int
    orientation: int = 1
    deep: bool = False  # more than 8 bits a channel, as far as the header tells

    @property
    def stored(self) -> Size:
        return self.height, self.width

    @property
    def shown(self) -> Size:
        """The size that a viewer shows."""
        return (self.width, self.height) if self.orientation >= SIDEWAYS else (self.height, self.width)


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name[name.rfind(".") :].lower() in IMAGE_SUFFIXES


def read_header(path: Path, megapixels: float = ImageRules.megapixels) -> Header:
    """The header of an image file that can be decoded; raises `OSError` that says why it cannot."""
    try:
        with path.open("rb") as file, pillow_without_limit():
            try:
                image = Image.open(file)
            except UnidentifiedImageError:
                return _decoded_header(path, megapixels)
            header = Header(image.height, image.width, _orientation(image), image.mode[0] in "IF")
            _check_pixels(header, megapixels)
            file.seek(-MARK_LENGTH, 2)
            if not ends_whole(file.read()):
                file.seek(0)
                Image.open(file).load()
    except FileNotFoundError:
        raise OSError("missing image") from None
    except TooLargeError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        reason = "empty file" if path.is_file() and path.stat().st_size == 0 else error
        raise OSError(f"unreadable or truncated image: {reason}") from None
    return header


def _decoded_header(path: Path, megapixels: float) -> Header:
    """Of a file that OpenCV alone reads, such as a TIFF of floats in three channels."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if cv2.haveImageReader(str(path)) else None
    if image is None:
        raise OSError("no picture that Pillow or OpenCV reads")
    header = Header(*image.shape[:2], deep=image.dtype != np.uint8)
    _check_pixels(header, megapixels)
    return header


class TooLargeError(OSError):
    """An image of more pixels than `data.megapixels` allows."""


def _check_pixels(header: Header, megapixels: float) -> None:
    size = header.height * header.width / 1e6
    if size > megapixels:
        raise TooLargeError(
            f"image of {size:.0f} megapixels, above data.megapixels={megapixels:g}: raise it (each loading process "
            f"then takes {3 * size / 1000:.1f} GB for it), or cut the image into tiles"
        )


@contextmanager
def pillow_without_limit() -> Iterator[None]:
    """While this context lasts, Pillow neither warns of nor refuses large images: ours is the only limit."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _orientation(image: Image.Image) -> int:
    """1 where nothing is said. Pillow turns a TIFF itself; of a PNG only what stands before the pixels counts."""
    if image.format in ("TIFF", "AVIF") or "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError):
        return 1
    return value if value in range(1, 9) else 1


def image_size(path: Path) -> Size:
    """(height, width) of the stored pixels of an image file that can be decoded; raises `OSError` that says why not."""
    return read_header(path).stored


def ends_whole(data: bytes) -> bool:
    """Whether the last bytes of an image file are the end mark of a JPEG or PNG; of others that cannot be told."""
    return data.endswith(END_MARKS)


def is_cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end mark: it may be truncated, or carry something behind the image."""
    return data.startswith(START_MARKS) and not ends_whole(data)
