"""A data set drawn to order: textured objects whose sizes, ratios, number and overlap are settings.

It is an instrument, not a benchmark: plant tall objects and see whether the anchors notice. The images and
one COCO file per split are drawn once and kept in a folder named after the settings; from then on they are
read like any other COCO data set. What lies where is decided here, what it looks like in painting.py.

G objects of one image; (h, w) the mask of one object. Boxes are xyxy in pixels, right and bottom exclusive;
ratio = height / width, size = square root of height x width.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from annotated_types import Ge, Len, Lt, MinLen

from anchorlab.console import tracked
from anchorlab.data import painting
from anchorlab.data.coco import CocoReader
from anchorlab.data.headers import ImageRules
from anchorlab.data.painting import Field, Generator
from anchorlab.data.sample import DataError, Problem, Record
from anchorlab.signatures import Count, CountOrZero, NotNegative, Numbers, Positive, checked

VERSION = 1
"""Part of the cache key: raise it whenever the same settings draw other images."""

JPEG_QUALITY = 92
OWN = re.compile(r"\.?[0-9a-f]{12}(-.*)?")  # names of what is drawn here, finished or not
PLACEMENTS = 30  # places tried for one object before it counts as not fitting


@dataclass(frozen=True)
class Recipe:
    """What the images of a synthetic data set have in common; the fields are those of `SyntheticReader`."""

    image_size: tuple[int, int]
    boxes_per_image: tuple[int, int]
    sizes: tuple[float, float]
    ratios: tuple[float, ...]
    ratio_jitter: float
    kinds: tuple[str, ...]
    occlusion: float
    clutter: int
    noise: float

    def __post_init__(self) -> None:
        """Raise a `ValueError` that names the setting if no image can be drawn to this recipe."""
        fewest, most = self.boxes_per_image
        smallest, largest = self.sizes
        known = set(self.kinds) <= set(painting.SHAPES)
        for met, key, fix in (
            (fewest <= most, "boxes_per_image", "give [fewest, most]"),
            (smallest <= largest, "sizes", "give [smallest, largest] in pixels"),
            (known, "kinds", f"choose from {', '.join(painting.SHAPES)}"),
        ):
            _require(met, key, getattr(self, key), fix)
        self._check_extremes()

    def _check_extremes(self) -> None:
        """The smallest object must fit into the image and show its shape at every ratio there can be."""
        smallest, stretch = self.sizes[0], 1 + self.ratio_jitter
        extremes = min(self.ratios) / stretch, max(self.ratios) * stretch
        room = min(map(self.largest_size, extremes))
        fix = f"at the most extreme ratio the image holds sizes up to {room:.1f}: lower the smallest"
        _require(smallest <= room, "sizes", self.sizes, fix)
        side = smallest * min(extremes[0], 1 / extremes[1]) ** 0.5
        fix = f"the thinnest object would be {side:.1f} pixels thin, of at least 4: raise the smallest"
        _require(side >= 4, "sizes", self.sizes, fix)

    def largest_size(self, ratio: float) -> float:
        """The size at which an object of this ratio just fits into the image."""
        height, width = self.image_size
        return min(height / ratio**0.5, width * ratio**0.5)


@checked
class SyntheticReader:
    """Reads the data set of these settings, drawing it first if this machine has not seen it yet.

    Args:
        num_train, num_val: images per split.
        image_size: height, width in pixels, the same for every image.
        boxes_per_image: fewest and most objects of one image, any number between them equally often. An
            object that finds no place is left out, but never below the fewest.
        sizes: smallest and largest size (square root of the box's area, pixels), log-uniform in between; the
            largest is lowered to what fits into the image at the object's ratio.
        ratios: height / width; every object follows one of them, each as often as the others.
        ratio_jitter: an object's ratio is log-uniform between ratio / (1 + jitter) and ratio * (1 + jitter).
            One ratio with a large jitter is a continuous spread: `ratios=[1] ratio_jitter=3` covers 1/4 to 4.
        kinds: kinds of objects, out of `painting.SHAPES`; they are the categories.
        occlusion: the largest share of an object that others may cover; 0 keeps all of them apart. The box of
            a partly covered object is still its full extent, its `area` the pixels that can be seen.
        clutter: unlabelled marks strewn over each background.
        noise: standard deviation of the pixel noise in grey levels.
        seed: another seed, other images; the same seed, the same bytes.
        root: the folder of all synthetic data sets, one sub-folder per choice of settings; `~` is the home.
    """

    def __init__(
        self,
        num_train: Count = 480,
        num_val: CountOrZero = 120,
        image_size: Annotated[Sequence[Annotated[int, Ge(16)]], Len(2, 2)] = (192, 256),
        boxes_per_image: Annotated[Sequence[CountOrZero], Len(2, 2)] = (1, 8),
        sizes: Annotated[Sequence[Positive], Len(2, 2)] = (12, 112),
        ratios: Numbers = (0.5, 1.0, 2.0),
        ratio_jitter: NotNegative = 0.2,
        kinds: Annotated[Sequence[str], MinLen(1)] = tuple(painting.SHAPES),
        occlusion: Annotated[float, Ge(0), Lt(1)] = 0.4,
        clutter: CountOrZero = 12,
        noise: NotNegative = 6.0,
        seed: CountOrZero = 0,
        *,
        root: str | Path,
    ):
        self.num_images = {"train": num_train, "val": num_val}
        self.recipe = Recipe(
            image_size=(image_size[0], image_size[1]),
            boxes_per_image=(boxes_per_image[0], boxes_per_image[1]),
            sizes=(sizes[0], sizes[1]),
            ratios=tuple(ratios),
            ratio_jitter=ratio_jitter,
            kinds=tuple(kinds),
            occlusion=occlusion,
            clutter=clutter,
            noise=noise,
        )
        self.seed = seed
        self.root = Path(root).expanduser()
        self.image_rules = ImageRules()

    @property
    def categories(self) -> list[str]:
        return list(self.recipe.kinds)

    @property
    def folder(self) -> Path:
        """Where the images of exactly these settings lie, or will."""
        settings = {**asdict(self.recipe), **self.num_images, "seed": self.seed, "version": VERSION}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return self.root / key[:12]

    def splits(self) -> list[str]:
        return [split for split, count in self.num_images.items() if count > 0]

    def read(self, split: str) -> tuple[list[Record], list[Problem]]:
        """The records of a split; the first call on a machine draws both splits (about 15 ms an image)."""
        if not self.folder.is_dir():
            self._draw_once()
        return CocoReader(images=".", annotations="{split}.json", root=self.folder).read(split)

    def _draw_once(self) -> None:
        """Draw into a folder of our own and rename it: nobody ever meets a half-drawn data set.

        Raises:
            DataError: a root that holds anything else.
        """
        _check_own(self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}-", dir=self.root))
        try:
            for number, split in enumerate(self.splits()):
                self._draw_split(draft, split, number)
            draft.chmod(0o755)  # mkdtemp keeps others out; a shared cache should not
            os.rename(draft, self.folder)
        except OSError:
            if not self.folder.is_dir():  # else another process was faster and drew the same bytes
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _draw_split(self, folder: Path, split: str, number: int) -> None:
        """Write the images of a split and its annotations; image i depends on (seed, split, i) alone."""
        (folder / split).mkdir()
        coco = _empty_coco(self.recipe)
        indices = range(self.num_images[split])
        for index in tracked(indices, f"drawing images ({split})", len(indices)):
            scene = draw_image(self.recipe, np.random.default_rng([self.seed, number, index]))
            name = f"{split}/{index:06d}.jpg"
            _write_jpeg(folder / name, scene.image)
            _append(coco, scene, name)
        (folder / f"{split}.json").write_text(json.dumps(coco))


@dataclass(frozen=True)
class SyntheticImage:
    """One synthetic image with its objects in painting order, the last on top."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    boxes: np.ndarray  # (G, 4) int64, the full extent of each object
    area: np.ndarray  # (G,) int64, its visible pixels
    category: np.ndarray  # (G,) int64


def draw_image(recipe: Recipe, rng: Generator) -> SyntheticImage:
    """Draw one image: design the objects, lay them out, then paint them over ground and clutter.

    An object's size and ratio are drawn whatever room there is, so that crowding does not bend their spread.
    """
    count = int(rng.integers(recipe.boxes_per_image[0], recipe.boxes_per_image[1] + 1))
    designs = [_design_object(recipe, rng) for _ in range(count)]
    masks = [mask for mask, _ in designs]
    layout = _lay_out(masks, recipe, rng)

    picture = painting.background(recipe.image_size, rng)
    painting.scatter_clutter(picture, recipe.clutter, rng)
    for index, corner in layout.corners.items():
        painting.paint_object(picture, masks[index], corner, rng)
    order = list(layout.corners)
    return SyntheticImage(
        image=painting.develop(picture, recipe.noise, rng),
        boxes=np.array([layout.box(index) for index in order], np.int64).reshape(-1, 4),
        area=layout.visible[order],
        category=np.array([designs[index][1] for index in order], np.int64),
    )


def _design_object(recipe: Recipe, rng: Generator) -> tuple[Field, int]:
    """The mask (h, w) of a random object and its category."""
    spread = np.log1p(recipe.ratio_jitter)
    ratio = float(rng.choice(recipe.ratios)) * np.exp(rng.uniform(-spread, spread))
    smallest, largest = recipe.sizes[0], min(recipe.sizes[1], recipe.largest_size(ratio))
    size = np.exp(rng.uniform(np.log(smallest), np.log(largest)))
    category = int(rng.integers(len(recipe.kinds)))
    contours = painting.outline(recipe.kinds[category], rng)
    return painting.rasterise(contours, (round(size * ratio**0.5), round(size / ratio**0.5))), category


# ----------------------------------------------------------------------------------------------------- layout


class _Layout:
    """Where the objects of one image lie, the later on top, and how much of each can be seen."""

    def __init__(self, masks: Sequence[Field], recipe: Recipe):
        self.solid = [mask >= painting.COVERED for mask in masks]
        self.least = (1 - recipe.occlusion) * np.array([mask.sum() for mask in self.solid])
        self.owner = np.full(recipe.image_size, len(masks))  # (H, W) the object on top; G is the ground
        self.visible = np.zeros(len(masks), np.int64)  # (G,) pixels
        self.corners: dict[int, tuple[int, int]] = {}  # row, column of each placed object, in painting order

    def place(self, index: int, rng: Generator) -> None:
        """Lay an object on top where it hides too much of none; leave it out if no place is found."""
        mask, placed = self.solid[index], list(self.corners)
        for _ in range(PLACEMENTS):
            row, column = (int(rng.integers(room + 1)) for room in np.subtract(self.owner.shape, mask.shape))
            below = self.owner[row : row + mask.shape[0], column : column + mask.shape[1]]
            still_seen = self.visible - np.bincount(below[mask], minlength=len(self.visible) + 1)[:-1]
            if (still_seen[placed] >= self.least[placed]).all():
                below[mask] = index
                self.visible = still_seen
                self.visible[index] = mask.sum()
                self.corners[index] = (row, column)
                return

    def box(self, index: int) -> tuple[int, int, int, int]:
        (row, column), (height, width) = self.corners[index], self.solid[index].shape
        return column, row, column + width, row + height


def _lay_out(masks: Sequence[Field], recipe: Recipe, rng: Generator) -> _Layout:
    """Place the objects in random order or, if one is left out, the largest first: that leaves more room."""
    by_size = sorted(range(len(masks)), key=lambda index: -masks[index].size)
    layouts = []
    for order in (range(len(masks)), by_size):
        layout = _Layout(masks, recipe)
        for index in order:
            layout.place(index, rng)
        if len(layout.corners) == len(masks):
            return layout
        layouts.append(layout)
    fullest = max(layouts, key=lambda layout: len(layout.corners))
    count, fewest = len(fullest.corners), recipe.boxes_per_image[0]
    fix = f"only {count} found a place in one image: ask for fewer or smaller ones, or more occlusion"
    _require(count >= fewest, "boxes_per_image", recipe.boxes_per_image, fix)
    return fullest


# ------------------------------------------------------------------------------------------------------ files


def _empty_coco(recipe: Recipe) -> dict[str, Any]:
    categories = [{"id": index + 1, "name": kind} for index, kind in enumerate(recipe.kinds)]
    return {"categories": categories, "images": [], "annotations": []}


def _check_own(root: Path) -> None:
    """Raise `DataError` where somebody's files lie: data sets drawn here would mix with them."""
    if root.exists() and not root.is_dir():
        raise DataError(
            f"data.root={root} is a file: data=auto reads what it describes, data=synthetic draws into a folder"
        )
    others = [path.name for path in root.iterdir() if not OWN.fullmatch(path.name)] if root.is_dir() else []
    if others:
        raise DataError(
            f"data.root={root} holds other things ({', '.join(sorted(others)[:3])}): the built-in images are drawn "
            "into a folder of their own; leave data.root out, or set data=auto to use what lies there"
        )


def _append(coco: dict[str, Any], scene: SyntheticImage, name: str) -> None:
    """Add one image and its objects to a COCO file's contents."""
    height, width = scene.image.shape[:2]
    image_id = len(coco["images"]) + 1
    coco["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
    for (x1, y1, x2, y2), area, category in zip(scene.boxes.tolist(), scene.area, scene.category, strict=True):
        coco["annotations"].append(
            {
                "id": len(coco["annotations"]) + 1,
                "image_id": image_id,
                "category_id": int(category) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(area),
                "iscrowd": 0,
            }
        )


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    path.write_bytes(data.tobytes())  # unlike cv2.imwrite, this fails loudly on a full disk


# --------------------------------------------------------------------------------------------------- settings


def _require(met: object, key: str, value: object, fix: str) -> None:
    if not met:
        raise ValueError(f"data.reader.{key}={value} cannot be drawn: {fix}.")
