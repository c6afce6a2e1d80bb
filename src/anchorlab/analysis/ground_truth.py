"""Ground-truth boxes of a data set as training compares them with anchors: resized, on their own grids; decodes no
image.

Augmentation is left out, and so are the neighbours of an image in its batch: each image has the grid that it would
have alone, padded to `pad_to`. In a batch with larger images the grid goes on to the right and below, with anchors
whose centres lie outside the image.

G: boxes of all images, I: images, L: levels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from anchorlab.data.module import DataModule
from anchorlab.data.resize import padded_size, target_size
from anchorlab.data.sample import Record
from anchorlab.errors import SettingError, is_out_of_memory
from anchorlab.rpn.backbones.backbones import Backbone
from anchorlab.rpn.network import RegionProposalNetwork

Grids = Callable[[Tensor], Tensor]
"""Sizes (I, 2) of a network's input, (height, width) -> rows and columns (I, L, 2) of its feature maps."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Objects of all images, ignored ones left out, in pixels of the network's input.

    boxes: (G, 4) float32 xyxy, bit for bit as `data.dataset` resizes them; image: (G,) int64, row of the record.
    sizes: (I, 2) int64, (height, width) of the contents; padded: (I, 2), with padding; grids: (I, L, 2) int64, rows and
    columns of each level.
    """

    boxes: Tensor
    image: Tensor
    sizes: Tensor
    padded: Tensor
    grids: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def num_images(self) -> int:
        return len(self.sizes)

    @cached_property
    def size(self) -> Tensor:
        """(G,) square roots of the boxes' areas."""
        width, height = (self.boxes[:, 2:] - self.boxes[:, :2]).unbind(1)
        return (width * height).sqrt()

    @cached_property
    def ratio(self) -> Tensor:
        """(G,) height / width."""
        width, height = (self.boxes[:, 2:] - self.boxes[:, :2]).unbind(1)
        return height / width

    def part(self, boxes: slice | Tensor) -> "GroundTruth":
        """Some of the boxes, of the same images."""
        chosen = {name: getattr(self, name)[boxes] for name in ("boxes", "image")}
        return GroundTruth(**{field.name: chosen.get(field.name, getattr(self, field.name)) for field in fields(self)})


class BackboneGrids:
    """The `Grids` of a backbone, found from the shapes of one to three inputs instead of one for each size.

    Each halving of a map rounds up or down, so that a side of n pixels has floor((n + b) / stride) cells, with a b
    below the stride for each level: 0 where all round down, stride - 1 where all round up, and less than 0 where
    convolutions without padding take pixels away.

    Raises, where sizes are asked for:
        SettingError: the backbone cannot read images of such sizes (DLA, HaloNet, ...).
    """

    def __init__(self, backbone: Backbone) -> None:
        self.strides = tuple(backbone.strides)
        if backbone not in _READ:
            _READ[backbone] = _reading(backbone)
        self._shifts, self._multiple = _READ[backbone]

    def __call__(self, sizes: Tensor) -> Tensor:
        if (sizes % self._multiple).any():
            raise SettingError(
                f"this backbone reads only images whose sides are multiples of {self._multiple}: set "
                f"data.pad_to={self._multiple}"
            )
        return torch.stack([(sizes + b) // s for b, s in zip(self._shifts, self.strides, strict=True)], dim=1)


class _Reading(NamedTuple):
    """How a backbone reads images: the b of each level, and what both sides have to be multiples of."""

    shifts: list[int]
    multiple: int


_READ: WeakKeyDictionary[Backbone, _Reading] = WeakKeyDictionary()
"""What `BackboneGrids` found of each backbone: a start asks several times, and a deep one takes half a second."""


def _reading(backbone: Backbone) -> _Reading:
    side = 4 * max(backbone.strides)
    try:
        return _Reading(_shifts(backbone, side), 1)
    except (RuntimeError, AssertionError) as error:  # as the model puts it; shapes that do not meet, mostly
        if is_out_of_memory(error):
            raise
        multiple = _multiple(backbone, side, error)
        cells, _ = _cells(backbone, side)
        return _Reading([stride * n - side for stride, n in zip(backbone.strides, cells, strict=True)], multiple)


def _multiple(backbone: Backbone, side: int, reason: Exception) -> int:
    """What the sides of an image have to be multiples of; `side` is one of them, if any is."""
    multiple = min(backbone.strides)
    while multiple <= side:
        try:
            _cells(backbone, side + multiple, side + 3 * multiple)
            return multiple
        except (RuntimeError, AssertionError):
            multiple *= 2
    raise SettingError(f"this backbone reads no image of {side} x {side} pixels: choose another ({reason})") from reason


def _shifts(backbone: Backbone, side: int) -> list[int]:
    """The b of each level, from the smallest r > 0 by which a side has to grow to have one more cell."""
    here, above = _cells(backbone, side, side + 1)
    all_round_up = all(more > cells for cells, more in zip(here, above, strict=True))
    below = here if all_round_up else _cells(backbone, side - 1)[0]
    found = []
    for level, stride in enumerate(backbone.strides):
        if above[level] > here[level]:
            r = 1
        elif below[level] < here[level]:
            r = stride
        else:
            r = _search(backbone, level, side, here[level])
        found.append(stride * (here[level] + 1) - side - r)
    return found


def _search(backbone: Backbone, level: int, side: int, here: int) -> int:
    """That r of a level that rounds both ways: with side + 1 it has `here` cells yet, with side + stride one more."""
    low, high = 1, backbone.strides[level]
    while high - low > 1:
        middle = (low + high) // 2
        grown = _cells(backbone, side + middle)[0][level] > here
        low, high = (low, middle) if grown else (middle, high)
    return high


def _cells(backbone: Backbone, height: int, width: int | None = None) -> tuple[list[int], list[int]]:
    """Rows and columns of each level; of a square where there is no width."""
    rows, columns = zip(*_map_sizes(backbone, height, height if width is None else width), strict=True)
    return list(rows), list(columns)


def _map_sizes(backbone: Backbone, height: int, width: int) -> list[tuple[int, int]]:
    """(height, width) of each level's map of an image, which is run through the backbone; that stays as it is.

    torch could find them from shapes alone, but imports its compiler for that, or sympy: more time than the run takes.
    """
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()  # no norm is to learn from this image, no random number to be drawn
    device = next(backbone.parameters()).device
    try:
        with torch.no_grad():
            maps = backbone(torch.zeros(1, 3, height, width, device=device))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return [(int(m.shape[-2]), int(m.shape[-1])) for m in maps]


def truth_of(data: DataModule, split: str, grids: Grids) -> GroundTruth:
    """The boxes of a split, as its images are resized and padded."""
    return ground_truth(data.records(split), data.short, data.long, data.pad_to, grids)


def ground_truth(
    records: Sequence[Record], short: int | None, long: int | None, pad_to: int, grids: Grids
) -> GroundTruth:
    """The boxes of all records; `short`, `long` and `pad_to` are those of the data module."""
    original = np.array([(record.height, record.width) for record in records], dtype=np.int64).reshape(-1, 2)
    distinct, which = np.unique(original, axis=0, return_inverse=True)
    targets = [target_size(height, width, short, long) for height, width in distinct.tolist()]
    sizes = np.array(targets, dtype=np.int64).reshape(-1, 2)[which.reshape(-1)]  # (I, 2)
    count = [len(record.boxes) for record in records]
    image = np.repeat(np.arange(len(records)), count)
    boxes = _resized(_concatenated([record.boxes for record in records], (0, 4)), original[image], sizes[image])
    objects = ~_concatenated([record.ignore for record in records], (0,)).astype(bool)
    padded = torch.from_numpy(-(-sizes // pad_to) * pad_to)
    return GroundTruth(
        boxes=torch.from_numpy(boxes[objects]),
        image=torch.from_numpy(image[objects]),
        sizes=torch.from_numpy(sizes),
        padded=padded,
        grids=grids(padded),
    )


def _resized(boxes: np.ndarray, original: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes (G, 4) in the steps of `dataset.decode` and `resize_sample`; (height, width) of each box's image (G, 2)."""
    limits = original[:, [1, 0, 1, 0]]
    clipped = np.clip(boxes, 0, limits).astype(np.float32)
    return (clipped * (sizes / original)[:, [1, 0, 1, 0]]).astype(np.float32)


def _concatenated(arrays: list[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(empty)


def feature_grids(network: RegionProposalNetwork, size: tuple[int, int]) -> list[tuple[int, int]]:
    """(height, width) of each level's map for an input of `size`."""
    rows = BackboneGrids(network.backbone)(torch.tensor([size]))[0].tolist()
    return [(height, width) for height, width in rows]


def input_size(data: DataModule) -> tuple[int, int]:
    """(height, width) of the first validation image as the network gets it: resized and padded."""
    record = data.val_records[0]
    return padded_size(*target_size(record.height, record.width, data.short, data.long), data.pad_to)


def scalar_axes(network: RegionProposalNetwork, size: tuple[int, int]) -> dict[str, Any]:
    """What runs are sorted and plotted by: the anchors' scalars, and their number on an image of `size`."""
    grids = feature_grids(network, size)
    return network.anchors.axes() | {"anchors_per_image": anchors_per_image(network.anchors.num_anchors, grids)}


def anchors_per_image(num_anchors: Sequence[int], grids: Sequence[tuple[int, int]]) -> int:
    """Anchors on maps of these (height, width), with so many per location of each; everywhere on `input_size`'s."""
    return sum(k * rows * columns for k, (rows, columns) in zip(num_anchors, grids, strict=True))
