"""Fit of the box coder: normalises deltas by their mean and spread over the training boxes; changes no anchor.

Deltas are in units of the anchor: of anchors four times as wide as the objects a box needs four times the precision for
the same pixels, and starts log(1/4) away from every object. An optimiser whose steps do not depend on the gradient's size
(Adam) does not make up for that, and anchors that are too large end with boxes that fit badly. Normalised as Fast R-CNN
normalises the deltas of its second stage, they train as anchors of the right size do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import OBJECT, Assigner
from anchorlab.rpn.coders import LARGEST, DeltaCoder
from anchorlab.signatures import Count, Positive, checked

FITTING_SPREAD = 0.2
"""Standard deviation of all four deltas where anchors are about as large as the objects: what published RPNs train."""
LEAST_POSITIVES = 32
LARGEST_WEIGHT = 20.0


@dataclass(frozen=True)
class FittedCoder:
    """Means and weights (4 numbers each) of a `DeltaCoder`, and how many positives they were taken over."""

    means: Sequence[float]
    weights: Sequence[float]
    clip: float | None
    positives: int

    @property
    def group(self) -> dict[str, Any]:
        """The `coder` group as `DeltaCoder` takes it."""
        settings = {"means": list(self.means), "weights": list(self.weights), "clip": self.clip}
        return {"_target_": f"anchorlab.rpn.{DeltaCoder.__name__}", **settings}


@checked
class DeltaFit:
    """Fits means and weights of the deltas to the positives of some training images; the choice `coder=fit`.

    A weight makes the standard deviation of its delta that of anchors which fit (0.2), and is never below 1: the spread
    of anchors that are too small is left alone.

    Args:
        images: so many, spread evenly over the training images that have objects.
        clip: as `DeltaCoder` takes it.

    The same boxes give the same numbers, on every process.
    """

    def __init__(self, images: Count = 64, clip: Positive | None = LARGEST):
        self.images = images
        self.clip = clip

    def __call__(self, truth: GroundTruth, anchors: AnchorGrid, assigner: Assigner) -> FittedCoder:
        deltas = self._deltas(truth, anchors, assigner)
        if len(deltas) < LEAST_POSITIVES:
            return FittedCoder((0.0,) * 4, (1.0,) * 4, self.clip, len(deltas))
        means = deltas.mean(0).tolist()
        weights = (FITTING_SPREAD / deltas.std(0)).clamp(1, LARGEST_WEIGHT).tolist()
        # Readable in config.yaml; the third digit trains nothing.
        return FittedCoder([round(m, 2) for m in means], [round(w, 2) for w in weights], self.clip, len(deltas))

    def _deltas(self, truth: GroundTruth, anchors: AnchorGrid, assigner: Assigner) -> Tensor:
        """Plain deltas (P, 4) that the positives of the chosen images have to learn."""
        coder, found = DeltaCoder(), [torch.zeros(0, 4)]
        with_objects = truth.image.unique()
        chosen = torch.linspace(0, len(with_objects) - 1, min(self.images, len(with_objects))).round().long()
        for image in with_objects[chosen].tolist():
            grids = [(int(rows), int(columns)) for rows, columns in truth.grids[image]]
            height, width = truth.padded[image].tolist()
            grid = anchors(grids, (height, width), "cpu")
            boxes = truth.boxes[truth.image == image]
            content = (int(truth.sizes[image][0]), int(truth.sizes[image][1]))
            assignment = assigner(grid, boxes, torch.zeros(len(boxes), dtype=torch.bool), content)
            positive = assignment.label == OBJECT
            found.append(coder.encode(grid.boxes[positive], boxes[assignment.box_index[positive]]))
        return torch.cat(found)
