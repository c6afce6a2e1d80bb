"""Training images changed at random with their boxes; images that are scored are never augmented.

The transforms are albumentations' own. Two things are added to them: a mosaic of four samples, and an
account of the boxes that leave the picture. albumentations drops a box of which little is left, and its
remains would be learnt as background; here they become an ignored region. To know what was cut off, both
corners of every box also travel as key points, which no transform clips.

H, W size of an image; G its boxes, xyxy in pixels, right and bottom exclusive.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from annotated_types import Len

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else every import asks the registry for a newer version
# Imported here, not on first use: W&B hooks into imports, and refuses to work in a forked worker process.
import albumentations as A

from anchorlab.data.resize import resize_sample
from anchorlab.data.sample import Sample
from anchorlab.signatures import Positive, Share, checked

Generator = np.random.Generator

PADDING = 114  # grey level beyond an image: near the mean of photographs, so that the seam is weak
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

    def __call__(self, sample: Sample, rng: Generator, draw: Callable[[int], Sample]) -> Sample:
        """A new sample that depends on the arguments alone.

        `draw(i)` gives another training sample, row i modulo their number; only a mosaic asks for any.
        """
        if rng.random() < self.mosaic:
            others = [draw(int(row)) for row in rng.integers(2**31, size=3)]
            sample = join_four([sample, *others], self.min_visibility, rng)
        self._compose.set_random_seed(int(rng.integers(2**31)))
        corners = sample.boxes.reshape(-1, 2) - PIXEL_CENTRE  # (2G, 2) of x, y
        held = {"bboxes": _held_whole(sample, rng)} if self.crop else {}
        out = self._compose(image=sample.image, keypoints=corners, **held)
        corners = np.asarray(out["keypoints"], np.float64).reshape(-1, 2, 2) + PIXEL_CENTRE  # (G, corner, xy)
        # A flip swaps left and right.
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        return cut(sample, out["image"], boxes, self.min_visibility)

    @cached_property
    def _compose(self) -> Any:
        """The transforms, built on first use, in the worker that uses them."""
        boxes = A.BboxParams(format="pascal_voc", clip=True, filter_invalid_bboxes=True)
        return A.Compose(
            [*self._moves(), *self._looks()],
            bbox_params=boxes if self.crop else None,  # only a crop asks for them, and they cost
            keypoint_params=A.KeypointParams(format="xy", remove_invisible=False),
        )

    def _moves(self) -> Iterator[Any]:
        """The steps that move boxes; the crop is first, while boxes lie where `_held_whole` puts them."""
        yield A.NoOp()  # albumentations warns of boxes that no transform would move
        if self.crop:
            yield A.BBoxSafeRandomCrop(p=self.crop)
        if self.flip:
            yield A.HorizontalFlip(p=self.flip)
        if self.scale is not None or self.shift:
            low, high = self.scale or (1.0, 1.0)
            zoom = {"scale": (low, high), "keep_ratio": True, "balanced_scale": low < 1 < high}
            yield A.Affine(**zoom, translate_percent=(-self.shift, self.shift), fill=PADDING, p=1)

    def _looks(self) -> Iterator[Any]:
        """The steps that change pixels alone."""
        if self.colour:
            around = (1 - self.colour, 1 + self.colour)
            hue = (-self.colour / 10, self.colour / 10)
            yield A.ColorJitter(brightness=around, contrast=around, saturation=around, hue=hue, p=1)
        if self.blur:
            soft = A.GaussianBlur(blur_limit=0, sigma_limit=(0.5, 1.5))
            # Anything but a blur to both sides alike would move objects off their boxes.
            motion = A.MotionBlur(blur_limit=(3, 7), allow_shifted=False, direction_range=(0, 0))
            yield A.OneOf([soft, motion], p=self.blur)
        if self.noise:
            yield A.GaussNoise(std_range=(0.01, 0.05), p=self.noise)

    def _check(self) -> None:
        if self.scale is not None:
            ordered = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]
            _require(ordered, "scale", self.scale, "give [smallest, largest] factor, both above 0, or null")


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
