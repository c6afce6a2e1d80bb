"""Decoding of a record's file: its pixels in the frame of its boxes; checked again, as files change during a run.

OpenCV decodes, and Pillow what OpenCV does not know. OpenCV decodes a truncated JPEG without an error and leaves the
rest grey: a file without its end mark is therefore judged by Pillow first, as at set-up.
"""

import io

import cv2
import numpy as np
from PIL import Image

from anchorlab.data.headers import image_size, is_cut_short, pillow_without_limit
from anchorlab.data.resize import follow_image, resize_image, target_size
from anchorlab.data.sample import DataError, Problem, Record, Sample

COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
AS_STORED = cv2.IMREAD_UNCHANGED  # which never turns either
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners have


def read_image(record: Record) -> np.ndarray:
    """(H, W, 3) uint8, RGB, turned as the record says. `DataError` with file and id where the file is bad by now."""
    try:
        data = record.path.read_bytes()
        if is_cut_short(data):
            image_size(record.path)
    except OSError as error:
        raise _unusable(record, error.strerror or str(error)) from None
    image = _pixels(data)
    if image is None:
        raise _unusable(record, "cannot be decoded")
    image = turned(image, record.orientation)
    size = image.shape[:2]
    if size != (record.height, record.width):
        raise _unusable(record, f"has {size[0]} x {size[1]} pixels (height x width) since it was checked at set-up")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_resized(record: Record, short: int | None, long: int | None) -> np.ndarray:
    """The record's pixels at the size of `resize.target_size`."""
    return resize_image(read_image(record), target_size(record.height, record.width, short, long))


def read_sample(record: Record, short: int | None, long: int | None) -> tuple[Sample, tuple[float, float]]:
    """The record at the network's size, and its scale (height, width): new pixels / original pixels."""
    return sample_at(record, read_resized(record, short, long))


def sample_at(record: Record, image: np.ndarray) -> tuple[Sample, tuple[float, float]]:
    """The same around pixels that `read_resized` gave before."""
    return follow_image(sample_of(record, image), (record.height, record.width))


def decode(record: Record) -> Sample:
    """The record's pixels and boxes, the boxes clipped to the image."""
    return sample_of(record, read_image(record))


def sample_of(record: Record, image: np.ndarray) -> Sample:
    """The record's boxes in original pixels, clipped, beside an image of any size."""
    limits = np.array([record.width, record.height, record.width, record.height])
    return Sample(
        image=image,
        boxes=np.clip(record.boxes, 0, limits).astype(np.float32),
        area=record.area.astype(np.float32),
        category=record.category,
        ignore=record.ignore if record.known is None else record.ignore | record.known,
        image_id=record.image_id,
    )


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, C) stored pixels -> what a viewer shows, by EXIF's number (1: as it is)."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def eight_bits(image: np.ndarray) -> np.ndarray:
    """Values of any type -> uint8, black staying black: integers by the bits that they take, floats by their top.

    A camera's 12 bits in a 16-bit file fill 0 to 255 as 16 bits do. Floats up to 1 are shares, up to 255 grey levels.
    """
    if image.dtype == np.uint8:
        return image
    top = float(np.nanmax(image, initial=0))
    if np.issubdtype(image.dtype, np.integer):
        bits = next((bits for bits in DEPTHS if top < 2**bits), 32)
        return (np.maximum(image, 0) >> (bits - 8)).astype(np.uint8)
    scale = 255.0 if top <= 1 else 1.0 if top <= 255 else 255 / top
    return np.clip(np.nan_to_num(image) * scale, 0, 255).astype(np.uint8)


def _pixels(data: bytes) -> np.ndarray | None:
    """(H, W, 3) uint8, BGR, as stored; None where nothing decodes it."""
    if not data:
        return None
    packed = np.frombuffer(data, np.uint8)
    try:
        if _may_be_deep(data):
            image = cv2.imdecode(packed, AS_STORED)
            if image is not None and image.dtype != np.uint8:
                return _three_channels(eight_bits(image))
        image = cv2.imdecode(packed, COLOUR)
    except cv2.error:  # more pixels than OpenCV takes
        image = None
    return _by_pillow(data) if image is None else image


def _may_be_deep(data: bytes) -> bool:
    """Whether a file can hold more than 8 bits a channel: a PNG that says so, and TIFF, PGM, PPM, JPEG 2000."""
    if data.startswith(b"\x89PNG"):
        return data[24:25] == b"\x10"
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or data[:2] in (b"P5", b"P6") or data[4:8] == b"jP  "


def _three_channels(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2 or image.shape[2] < 3:
        grey = image if image.ndim == 2 else image[..., 0]
        return np.repeat(grey[..., None], 3, axis=2)
    return np.ascontiguousarray(image[..., :3])


def _by_pillow(data: bytes) -> np.ndarray | None:
    try:
        with pillow_without_limit():
            image = Image.open(io.BytesIO(data))
            if image.mode[0] in "IF":
                return _three_channels(eight_bits(np.asarray(image)))
            return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
    except (OSError, SyntaxError, ValueError):
        return None


def _unusable(record: Record, reason: str) -> DataError:
    return DataError.of(Problem(record.path, f"image {record.image_id}", reason))
