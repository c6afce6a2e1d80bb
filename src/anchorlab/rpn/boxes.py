"""Geometry of axis-aligned boxes: area, overlap, regions and clipping; knows no anchors and no images.

A box is (x1, y1, x2, y2) in pixels; right and bottom are exclusive, so a width is x2 - x1 without a +1.
Everything is computed in float32 or better: half-precision boxes are up to 4 pixels off at x = 1000.

N, M: numbers of boxes.
"""

import torch
from torch import Tensor
from torchvision import ops

Region = tuple[float, float, float, float]
"""(x1, y1, x2, y2), as a box."""


def area(boxes: Tensor) -> Tensor:
    """Areas (N,) in square pixels of boxes (N, 4)."""
    return ops.box_area(_precise(boxes))


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (N, M), in 0..1, of boxes a (N, 4) with boxes b (M, 4).

    Equal to `torchvision.ops.box_iou` bit for bit in float32. Undefined (NaN) for two boxes without area.
    """
    return ops.box_iou(_precise(a), _precise(b))


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (N,), in 0..1, of each box of a (N, 4) with the box of b (N, 4) in the same row.

    0 for two boxes without area.
    """
    a, b = _precise(a), _precise(b)
    top_left, bottom_right = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=1)
    union = area(a) + area(b) - intersection
    return intersection / union.where(union > 0, 1)


def pairwise_iof(a: Tensor, b: Tensor) -> Tensor:
    """Share (N, M), in 0..1, of each box of a (N, 4) that lies inside each box of b (M, 4).

    "Intersection over foreground": the intersection over a's own area. Undefined (NaN) where a has no area.
    """
    a, b = _precise(a), _precise(b)
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])  # (N, M, 2)
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])  # (N, M, 2)
    width, height = (bottom_right - top_left).clamp(min=0).unbind(-1)
    return width * height / area(a)[:, None]


def inside(boxes: Tensor, region: Region | None) -> Tensor:
    """Whether all of each box (N, 4) lies in the region, borders included: (N,) bool. None: it does everywhere."""
    x1, y1, x2, y2 = boxes.unbind(1)
    if region is None:
        return torch.ones_like(x1, dtype=torch.bool)
    return (x1 >= region[0]) & (y1 >= region[1]) & (x2 <= region[2]) & (y2 <= region[3])


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (N, 4) cut at the borders of an image of `size` (height, width)."""
    return ops.clip_boxes_to_image(boxes, size)


def _precise(boxes: Tensor) -> Tensor:
    return boxes.to(torch.promote_types(boxes.dtype, torch.float32))
