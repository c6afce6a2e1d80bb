"""Samples of different sizes -> one padded `Batch`, which also holds what recall is scored against.

Images stay uint8: the network normalises them on its own device, and padding is zero only after that. They are
written once, into the memory that a worker process shares with training; all else is small and travels as arrays,
because every tensor that leaves a worker costs a file handle and a connection.

B images; G ground-truth boxes of one image, N of the whole batch; H, W the batch's padded size.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import get_worker_info

from anchorlab.data.resize import padded_size
from anchorlab.data.sample import Record, Sample

SHARED_MEMORY = "/dev/shm"


class Target(NamedTuple):
    """What recall scores, in original pixels and in the precision of the annotation."""

    boxes: Tensor  # (G, 4) float64
    area: Tensor  # (G,) float64
    ignore: Tensor  # (G,) bool
    known: Tensor  # (G,) bool, of categories trained on, where only others are scored

    @property
    def counted(self) -> Tensor:
        """(G,) bool, the objects to be found."""
        return ~(self.ignore | self.known)


class Item(NamedTuple):
    """One resized sample on its way into a batch; `target` is None where augmentation moved the boxes."""

    sample: Sample
    scale: tuple[float, float]  # height, width: input pixels / original pixels
    index: int  # row of the record in its split
    target: Target | None


@dataclass(frozen=True)
class Batch:
    """Images and boxes as the network takes them.

    `boxes`, `ignore`, `category` and `targets` are lists of views, one per image. `scales`, `index` and the
    targets stay on the CPU under `to`: scoring happens there, in float64, which some devices do not have. `sizes` stay,
    too: they are asked for as numbers, for which a GPU would have to finish what it is at.
    """

    images: Tensor  # (B, 3, H, W) uint8, zero beyond each image's own size; channels_last in memory
    sizes: Tensor  # (B, 2) int64, height and width of the content
    scales: Tensor  # (B, 2) float64, height and width: input pixels / original pixels
    index: Tensor  # (B,) int64, row of the record in its split: recall counts each once
    image_ids: list[int | str]
    num_boxes: list[int]  # G of each image
    all_boxes: Tensor  # (N, 4) float32, input pixels
    all_ignore: Tensor  # (N,) bool
    all_category: Tensor  # (N,) int64
    all_targets: Target | None  # of N boxes; None for an augmented batch

    @property
    def boxes(self) -> list[Tensor]:
        return list(self.all_boxes.split(self.num_boxes))

    @property
    def ignore(self) -> list[Tensor]:
        return list(self.all_ignore.split(self.num_boxes))

    @property
    def category(self) -> list[Tensor]:
        return list(self.all_category.split(self.num_boxes))

    @property
    def targets(self) -> list[Target] | None:
        if self.all_targets is None:
            return None
        columns = (column.split(self.num_boxes) for column in self.all_targets)
        return [Target(*row) for row in zip(*columns, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        """Arrays for all that does not lie in shared memory already; images as they lie in memory."""
        state = {name: _as_arrays(value) for name, value in vars(self).items() if name != "images"}
        images = self.images.permute(0, 2, 3, 1)
        return {**state, "images": images if images.is_shared() else images.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: _as_tensors(value) for name, value in state.items()})
        vars(self)["images"] = self.images.permute(0, 3, 1, 2)

    def to_original(self, row: int, boxes: Tensor) -> Tensor:
        """Boxes (P, 4) of image `row` from input pixels to original ones: float64, on the CPU."""
        tall, wide = self.scales[row].tolist()
        return boxes.detach().cpu().double() / torch.tensor([wide, tall, wide, tall], dtype=torch.float64)

    def to(self, device: torch.device | str) -> "Batch":
        """The batch with the images and boxes that the network reads on `device`."""
        names = ("images", "all_boxes", "all_ignore", "all_category")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})

    def pin_memory(self) -> "Batch":
        """Called by the data loader: page-locked images make the copy to a GPU asynchronous."""
        names = ("images", "sizes", "all_boxes", "all_ignore", "all_category")
        return replace(self, **{name: getattr(self, name).pin_memory() for name in names})


def target_of(record: Record) -> Target:
    """The record's boxes as recall scores them."""
    known = np.zeros_like(record.ignore) if record.known is None else record.known
    return Target(*map(torch.from_numpy, (record.boxes, record.area, record.ignore, known)))


def collate(items: Sequence[Item], pad_to: int = 1) -> Batch:
    """Items -> batch, padded right and below to the largest sides, rounded up to multiples of `pad_to`."""
    samples = [item.sample for item in items]
    targets = [item.target for item in items if item.target is not None]
    assert len(targets) in (0, len(items)), "a batch is augmented as a whole or not at all"
    return Batch(
        images=_padded([sample.image for sample in samples], pad_to),
        sizes=torch.tensor([sample.image.shape[:2] for sample in samples]),
        scales=torch.tensor([item.scale for item in items], dtype=torch.float64),
        index=torch.tensor([item.index for item in items]),
        image_ids=[sample.image_id for sample in samples],
        num_boxes=[len(sample.boxes) for sample in samples],
        all_boxes=torch.from_numpy(np.concatenate([sample.boxes for sample in samples])),
        all_ignore=torch.from_numpy(np.concatenate([sample.ignore for sample in samples])),
        all_category=torch.from_numpy(np.concatenate([sample.category for sample in samples])),
        all_targets=Target(*map(torch.cat, zip(*targets, strict=True))) if targets else None,
    )


def padded(images: Tensor, pad_to: int) -> Tensor:
    """Images (B, C, H, W) with zeros to the right and below, up to multiples of `pad_to`."""
    height, width = images.shape[-2:]
    tall, wide = padded_size(height, width, pad_to)
    return F.pad(images, (0, wide - width, 0, tall - height))


def _padded(images: Sequence[np.ndarray], pad_to: int) -> Tensor:
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    padded = _zeros(len(images), *padded_size(height, width, pad_to), 3)
    for page, image in zip(padded, images, strict=True):
        page[: image.shape[0], : image.shape[1]] = torch.from_numpy(np.ascontiguousarray(image))
    return padded.permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W), no copy: this is channels_last


def _zeros(*shape: int) -> Tensor:
    """uint8, in a worker process in shared memory, as torch's own collate function does: no copy on the way out.

    Where that is too small (64 MB in a container of Docker's) a batch travels through a pipe instead: a process that
    writes beyond the end of shared memory is killed without a word.
    """
    worker, size = get_worker_info(), math.prod(shape)
    if worker is None or shared_memory_left() < (worker.num_workers + 1) * size:  # all may be about to take as much
        return torch.zeros(shape, dtype=torch.uint8)
    shared = torch.UntypedStorage._new_shared(size)  # zero, as the system gives it
    return torch.empty(0, dtype=torch.uint8).set_(shared, 0, shape)  # pyright: ignore[reportCallIssue]


def shared_memory_left(folder: str = SHARED_MEMORY) -> float:
    """Bytes; infinite where the system keeps shared memory in no folder."""
    try:
        state = os.statvfs(folder)
    except (OSError, AttributeError):
        return math.inf
    return state.f_bavail * state.f_frsize


def _as_arrays(value: Any) -> Any:
    if isinstance(value, Target):
        return Target(*map(_as_arrays, value))
    return value.numpy() if isinstance(value, Tensor) else value


def _as_tensors(value: Any) -> Any:
    if isinstance(value, Target):
        return Target(*map(_as_tensors, value))
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
