"""Training images changed at random with their boxes; images that are scored are never augmented.

The transforms are albumentations' own (transforms.py); a flip alone is made here, with the same outcome, because
albumentations takes a third of a second to import. Two things are added to them: a mosaic of four samples, and an
account of the boxes that leave the picture. albumentations drops a box of which little is left, and its
remains would be learnt as background; here they become an ignored region. To know what was cut off, both
corners of every box also travel as key points, which no transform clips.

H, W size of an image; G its boxes, xyxy in pixels, right and bottom exclusive.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from random import Random
from typing import Annotated, Any

import numpy as np
from annotated_types import Len

from anchorlab.data.resize import resize_sample
from anchorlab.data.sample import Sample
from anchorlab.signatures import Positive, Share, checked

Generator = np.random.Generator

PIXEL_CENTRE = 0.5  # key points count from the centre of the first pixel, boxes from its edge


@checked
class Augmentation:
    """(sample, generator, draw) -> sample, changed as these numbers say; a step at 0 (or null) is left out.

    Augmented images are resized afterwards as all images are, to a fixed long side. `scale` and `shift`
    therefore move the content within a picture of unchanged size; a crop makes the picture smaller and so
    ends as a zoom.

    Args:
        mosaic: probability of joining the image with three others around a random centre.
        crop: probability of a crop that holds every object whole and at least half of either side.
        flip: probability of a horizontal flip.
        scale: [smallest, largest] factor for the content; it shrinks as often as it grows.
        shift: largest shift of the content, as a share of the image's height and width.
        colour: largest change of brightness, contrast and saturation, as a share; hue turns by a tenth of it
            at most, in turns of the colour circle.
        blur: probability of a slight Gaussian or motion blur.
        noise: probability of Gaussian pixel noise.
        min_visibility: an object that a step leaves less than this share of its box becomes an ignored region.
    """

    def __init__(
        self,
        mosaic: Share = 0.0,
        crop: Share = 0.0,
        flip: Share = 0.0,
        scale: Annotated[Sequence[Positive], Len(2, 2)] | None = None,
        shift: Share = 0.0,
        colour: Share = 0.0,
        blur: Share = 0.0,
        noise: Share = 0.0,
        min_visibility: Share = 0.3,
    ):
        self.mosaic = mosaic
        self.crop = crop
        self.flip = flip
        self.scale = scale
        self.shift = shift
        self.colour = colour
        self.blur = blur
        self.noise = noise
        self.min_visibility = min_visibility
        self._check()
        self.only_flips = scale is None and not (crop or shift or colour or blur or noise)
        if not self.only_flips:
            # Here, not on first use: W&B hooks into imports, and refuses to work in a forked worker process.
            import_module("anchorlab.data.transforms")

    def __call__(self, sample: Sample, rng: Generator, draw: Callable[[int], Sample]) -> Sample:
        """A new sample that depends on the arguments alone.

        `draw(i)` gives another training sample, row i modulo their number; only a mosaic asks for any.
        """
        if rng.random() < self.mosaic:
            others = [draw(int(row)) for row in rng.integers(2**31, size=3)]
            sample = join_four([sample, *others], self.min_visibility, rng)
        seed = int(rng.integers(2**31))
        corners = sample.boxes.reshape(-1, 2) - PIXEL_CENTRE  # (2G, 2) of x, y
        image, corners = self._moved(sample, corners, seed, rng)
        corners = corners.astype(np.float64).reshape(-1, 2, 2) + PIXEL_CENTRE  # (G, corner, xy)
        # A flip swaps left and right.
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        return cut(sample, image, boxes, self.min_visibility)

    def _moved(self, sample: Sample, corners: np.ndarray, seed: int, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
        """The image and the points on it after all steps; `seed` is the transforms'."""
        if not self.only_flips:
            held = _held_whole(sample, rng) if self.crop else None
            return self._transforms(seed, sample.image, corners, held)
        # The draw of albumentations, whose every step begins with the same seed.
        return flipped(sample.image, corners) if Random(seed).random() < self.flip else (sample.image, corners)

    @cached_property
    def _transforms(self) -> Any:
        """Built on first use, in the worker that uses them."""
        from anchorlab.data.transforms import Transforms  # a third of a second that a flip alone does not need

        return Transforms(self.crop, self.flip, self.scale, self.shift, self.colour, self.blur, self.noise)

    def _check(self) -> None:
        if self.scale is not None:
            ordered = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]
            _require(ordered, "scale", self.scale, "give [smallest, largest] factor, both above 0, or null")


def flipped(image: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right exchanged: of the image, and of points (n, 2) that count from the centre of the first pixel."""
    return image[:, ::-1], np.stack([image.shape[1] - 1 - points[:, 0], points[:, 1]], axis=1)


def cut(sample: Sample, image: np.ndarray, boxes: np.ndarray, min_visibility: float) -> Sample:
    """The sample after a step that gave it another image and moved its boxes, some of them beyond the image.

    Boxes (G, 4) are clipped. An object of which less than `min_visibility` is left becomes an ignored region,
    and a remnant thinner than a pixel nothing at all. Areas shrink and grow with their boxes.
    """
    height, width = image.shape[:2]
    inside = np.clip(boxes, 0, (width, height, width, height))
    sides = inside[:, 2:] - inside[:, :2]
    visible, whole, before = sides.prod(axis=1), _areas(boxes), _areas(sample.boxes)
    lost = visible < min_visibility * whole
    kept = (visible > 0) & (before > 0) & (~(lost | sample.ignore) | (sides >= 1).all(axis=1))
    return replace(
        sample,
        image=np.ascontiguousarray(image),
        boxes=inside[kept].astype(np.float32),
        area=(sample.area[kept] * visible[kept] / before[kept]).astype(np.float32),
        category=sample.category[kept],
        ignore=(sample.ignore | lost)[kept],
    )


def join_four(samples: Sequence[Sample], min_visibility: float, rng: Generator) -> Sample:
    """A mosaic: four samples around a random centre, with the id and the image size of the first.

    Each is scaled until it just covers its quarter, and cropped to it at random.
    """
    height, width = samples[0].image.shape[:2]
    row, column = (int(np.clip(side * rng.uniform(0.3, 0.7), 1, side - 1)) for side in (height, width))
    canvas = np.empty((height, width, 3), np.uint8)
    tiles = []
    for sample, position in zip(samples, rng.permutation(4), strict=True):
        top, bottom = (0, row) if position < 2 else (row, height)
        left, right = (0, column) if position % 2 == 0 else (column, width)
        tile = _fill(sample, (bottom - top, right - left), min_visibility, rng)
        canvas[top:bottom, left:right] = tile.image
        tiles.append(replace(tile, boxes=tile.boxes + np.array([left, top, left, top], np.float32)))
    per_box = ("boxes", "area", "category", "ignore")
    joined = {name: np.concatenate([getattr(tile, name) for tile in tiles]) for name in per_box}
    return replace(samples[0], image=canvas, **joined)


def _fill(sample: Sample, size: tuple[int, int], min_visibility: float, rng: Generator) -> Sample:
    """The sample scaled until it just covers (height, width) = `size`, and cropped to that at random."""
    scale = max(new / old for new, old in zip(size, sample.image.shape[:2], strict=True))
    height, width = (round(side * scale) for side in sample.image.shape[:2])
    scaled, _ = resize_sample(sample, (height, width))
    top, left = (int(rng.integers(room + 1)) for room in (height - size[0], width - size[1]))
    window = scaled.image[top : top + size[0], left : left + size[1]]
    return cut(scaled, window, scaled.boxes - np.array([left, top, left, top]), min_visibility)


def _held_whole(sample: Sample, rng: Generator) -> np.ndarray:
    """What a crop must hold (n, 4): the objects, and a random window half as high and wide as the image.

    Without the window, a lone small object would be cropped to a few pixels and blown up, and an image
    without objects would not be cropped at all.
    """
    height, width = sample.image.shape[:2]
    left, top = rng.random(2) * (width, height) / 2
    window = np.array([[left, top, left + width / 2, top + height / 2]])
    boxes = np.concatenate([window, sample.boxes[~sample.ignore]])
    # The crop rounds its right and bottom down: half a pixel beyond whole ones survives a rounding error.
    outward = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:]) + 0.5], axis=1)
    return np.clip(outward, 0, (width, height, width, height)).astype(np.float32)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]).astype(np.float64) * (boxes[:, 3] - boxes[:, 1])


def _require(met: bool, key: str, value: object, fix: str) -> None:
    if not met:
        raise ValueError(f"{key}={value} is no augmentation: {fix}.")
