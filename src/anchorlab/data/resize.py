"""Resizing: how large the network sees an image, in one function that study, training and evaluation share.

Boxes follow by new / old side, axis by axis, because rounding a side to whole pixels changes the two scales
by a little. Padding is not resizing (batch.py).

H, W height and width of an image; G its ground-truth boxes.
"""

from dataclasses import replace

import cv2
import numpy as np

from anchorlab.data.sample import Sample

# From here on a bilinear pixel, which reads 2x2 neighbours, skips some of the image: average it instead.
AREA_BELOW = 0.5


def target_size(height: int, width: int, short: int | None, long: int | None) -> tuple[int, int]:
    """The (height, width) at which the network sees an image of `height` x `width` pixels.

    The short side becomes `short` unless the long side would then exceed `long`; in that case, and where
    `short` is None, the long side becomes `long`. `long=None` sets no limit; with both None the image keeps
    its size. The aspect ratio is kept up to rounding to whole pixels (half up, at least 1).
    """
    scales = []
    if short is not None:
        scales.append(short / min(height, width))
    if long is not None:
        scales.append(long / max(height, width))
    scale = min(scales, default=1.0)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def padded_size(height: int, width: int, pad_to: int) -> tuple[int, int]:
    """(height, width) rounded up to multiples of `pad_to`."""
    return -(-height // pad_to) * pad_to, -(-width // pad_to) * pad_to


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) -> (*size, 3). Pixel centres are half-integers: a box times new / old stays on its object."""
    height, width = image.shape[:2]
    if size == (height, width):
        return image
    shrinks = max(size[0] / height, size[1] / width) <= AREA_BELOW
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_sample(sample: Sample, size: tuple[int, int]) -> tuple[Sample, tuple[float, float]]:
    """The sample at (height, width) = `size`, and its scale (height, width): new pixels / old pixels."""
    return follow_image(replace(sample, image=resize_image(sample.image, size)), sample.image.shape[:2])


def follow_image(sample: Sample, old: tuple[int, ...]) -> tuple[Sample, tuple[float, float]]:
    """The sample with its boxes taken from an `old` (height, width) to its image, and the scale between them."""
    tall, wide = sample.image.shape[0] / old[0], sample.image.shape[1] / old[1]
    resized = replace(
        sample,
        boxes=(sample.boxes * np.array([wide, tall, wide, tall])).astype(np.float32),
        area=(sample.area * (tall * wide)).astype(np.float32),
    )
    return resized, (tall, wide)


def resized(short: int | None, long: int | None, size: int | None) -> tuple[int | None, int | None]:
    """`data.short` and `data.long` with the one that rules replaced by `size`, and the other in proportion."""
    if size is None:
        return short, long
    if short is None:
        return None, size
    return size, None if long is None else round(long * size / short)
