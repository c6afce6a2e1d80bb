"""A record's file -> its pixels; checked again while it is read, because files change while a run goes on.

OpenCV decodes a truncated JPEG without an error and leaves the rest grey: a file without its end mark is
therefore judged by Pillow first, as at set-up.
"""

import cv2
import numpy as np

from anchorlab.data.checks import image_size, is_cut_short
from anchorlab.data.resize import resize_image, target_size, with_image
from anchorlab.data.sample import DataError, Problem, Record, Sample

FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def read_image(record: Record) -> np.ndarray:
    """(H, W, 3) uint8, RGB, never turned. Raises `DataError` with file and id where the file is bad by now."""
    try:
        data = record.path.read_bytes()
        if is_cut_short(data):
            image_size(record.path)
    except OSError as error:
        raise _unusable(record, error.strerror or str(error)) from None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), FLAGS) if data else None
    if image is None:
        raise _unusable(record, "cannot be decoded")
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
    return with_image(sample_of(record, image), image, (record.height, record.width))


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


def _unusable(record: Record, reason: str) -> DataError:
    return DataError.of(Problem(record.path, f"image {record.image_id}", reason))
