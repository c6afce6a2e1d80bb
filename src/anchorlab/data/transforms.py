"""The steps of an augmentation that albumentations makes: crop, flip, zoom, shift, colours, blur and noise.

They move an image with key points on it; what becomes of boxes is augment.py's to say.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else every import asks the registry for a newer version
import albumentations as A

PADDING = 114  # grey level beyond an image: near the mean of photographs, so that the seam is weak


class Transforms:
    """(seed, image, points, held) -> image and points (n, 2) moved with it, counted from the centre of a pixel.

    A crop holds the boxes `held` whole. Arguments as `augment.Augmentation`.
    """

    def __init__(
        self,
        crop: float,
        flip: float,
        scale: Sequence[float] | None,
        shift: float,
        colour: float,
        blur: float,
        noise: float,
    ) -> None:
        self.crop, self.flip, self.scale, self.shift = crop, flip, scale, shift
        self.colour, self.blur, self.noise = colour, blur, noise
        boxes = A.BboxParams(format="pascal_voc", clip=True, filter_invalid_bboxes=True)
        self._compose = A.Compose(
            [*self._moves(), *self._looks()],
            bbox_params=boxes if self.crop else None,  # only a crop asks for them, and they cost
            keypoint_params=A.KeypointParams(format="xy", remove_invisible=False),
        )

    def __call__(
        self, seed: int, image: np.ndarray, points: np.ndarray, held: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        self._compose.set_random_seed(seed)
        given: dict[str, Any] = {} if held is None else {"bboxes": held}
        out = self._compose(image=image, keypoints=points, **given)
        return out["image"], np.asarray(out["keypoints"])

    def _moves(self) -> Iterator[Any]:
        """The steps that move boxes; the crop is first, while boxes lie where `held` says."""
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
