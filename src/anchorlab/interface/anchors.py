"""Anchors from Python: which boxes they cover, for boxes that lie in arrays; reads no file and trains nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from anchorlab.analysis.coverage import Coverage, cover
from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.interface.metrics import as_boxes
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import Assigner, MaxIoUAssigner


def coverage(boxes: Sequence[Any], sizes: Any, anchors: AnchorGrid, assigner: Assigner | None = None) -> Coverage:
    """Which boxes have an anchor, of what IoU, on which level: what the study command computes of a data set.

    Args:
        boxes: for each image its objects' boxes (G, 4), (x1, y1, x2, y2) in pixels of the network's input.
        sizes: (height, width) of each image (I, 2), or one pair for all; the feature maps are those of the image padded
            to a multiple of the largest stride.
        anchors: with their strides: `AnchorGrid(scale=8, ratios=[0.5, 1, 2], strides=[8, 16, 32])`.
        assigner: by whose thresholds a box is covered; None: `MaxIoUAssigner()`.

    Raises:
        ValueError: arrays of other shapes, or not one size for each image.
    """
    arrays = [as_boxes(of_image, f"boxes[{image}]") for image, of_image in enumerate(boxes)]
    each = torch.as_tensor(np.asarray(sizes), dtype=torch.int64)
    each = each.expand(len(arrays), 2) if each.shape == (2,) else each
    if each.shape != (len(arrays), 2):
        raise ValueError(
            f"sizes has the shape {tuple(each.shape)}: give (height, width) of each of {len(arrays)} images"
        )
    stride = torch.tensor(anchors.strides)
    padded = -(-each // int(stride.max())) * int(stride.max())
    count = [len(array) for array in arrays]
    truth = GroundTruth(
        boxes=torch.from_numpy(np.concatenate([np.zeros((0, 4)), *arrays]).astype(np.float32)),
        image=torch.repeat_interleave(torch.arange(len(arrays)), torch.tensor(count, dtype=torch.int64)),
        sizes=each,
        padded=padded,
        grids=padded[:, None] // stride[:, None],
    )
    return cover(truth, anchors, MaxIoUAssigner() if assigner is None else assigner)
