"""Deltas that training boxes ask of the anchors: their means and spread, for `FittedDeltaCoder`; trains nothing."""

import torch
from torch import Tensor

from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import OBJECT, Assigner
from anchorlab.rpn.coders import DeltaCoder

USUAL_SPREAD = 0.2
"""Standard deviation of all four deltas where anchors are as large as the objects, as published RPNs train them."""
LEAST_POSITIVES = 32
LARGEST_WEIGHT = 20.0

Numbers = list[float]


def means_and_weights(
    truth: GroundTruth, anchors: AnchorGrid, assigner: Assigner, images: int
) -> tuple[Numbers, Numbers]:
    """Four means and four weights that give the deltas of the positives mean 0 and the usual spread.

    No weight is below 1: the spread of anchors that are smaller than the objects is left alone. Too few positives to
    tell give means of 0 and weights of 1. The same boxes give the same numbers, on every process.

    Args:
        images: so many are looked at, spread evenly over those that have objects.
    """
    deltas = _deltas(truth, anchors, assigner, images)
    if len(deltas) < LEAST_POSITIVES:
        return [0.0] * 4, [1.0] * 4
    weights = (USUAL_SPREAD / deltas.std(0)).clamp(1, LARGEST_WEIGHT)
    # Rounded to be read in config.yaml: the third digit trains nothing.
    return [round(mean, 2) for mean in deltas.mean(0).tolist()], [round(weight, 2) for weight in weights.tolist()]


def _deltas(truth: GroundTruth, anchors: AnchorGrid, assigner: Assigner, images: int) -> Tensor:
    """Plain deltas (P, 4) of the positives of the chosen images."""
    coder, found = DeltaCoder(), [torch.zeros(0, 4)]
    with_objects = truth.image.unique()
    count = min(images, len(with_objects))
    for image in with_objects[torch.linspace(0, len(with_objects) - 1, count).round().long()].tolist():
        height, width = truth.padded[image].tolist()
        grid = anchors([(int(rows), int(columns)) for rows, columns in truth.grids[image]], (height, width), "cpu")
        boxes, content = truth.boxes[truth.image == image], truth.sizes[image].tolist()
        assignment = assigner(grid, boxes, torch.zeros(len(boxes), dtype=torch.bool), (content[0], content[1]))
        positive = assignment.label == OBJECT
        found.append(coder.encode(grid.boxes[positive], boxes[assignment.box_index[positive]]))
    return torch.cat(found)
