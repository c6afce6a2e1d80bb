"""The boxes of a data set placed on every level of an anchor grid; what is the same for several shapes is made once.

G: boxes of all images, n: some of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.placement import Cells, Placement, Shape, Spans
from anchorlab.study.truth import GroundTruth


@dataclass(frozen=True)
class LevelShape:
    """One shape of one level and how its anchors lie: all that a box's best IoU with it depends on."""

    level: int
    stride: int | None  # None: inferred from each image
    offset: float
    shape: Shape


def level_shapes(anchors: AnchorGrid, truth: GroundTruth) -> list[LevelShape]:
    """The shapes of all levels, finest first.

    Raises ValueError where the ground truth has another number of levels.
    """
    num_levels = truth.grids.shape[1]
    if num_levels != len(anchors.strides):
        raise ValueError(
            f"The anchors have {len(anchors.strides)} levels and the ground truth has grids of {num_levels}: "
            "make both from the same backbone."
        )
    strides = [None] * num_levels if anchors.stride == "inferred" else list(anchors.strides)
    return [
        LevelShape(level, strides[level], anchors.offset, (width, height))
        for level, shapes in enumerate(anchors.shapes)
        for width, height in shapes.tolist()
    ]


class PlacedBoxes:
    """Answers `Placement`'s questions for all boxes of a `GroundTruth`.

    border: anchors that reach more than so many pixels beyond the image do not exist, as in the assigner.
    """

    def __init__(self, truth: GroundTruth, border: float | None) -> None:
        self._truth, self._border = truth, border
        self._spans = Spans(truth.boxes)
        self._parts: dict[tuple[int, int | None, float], list[_Part]] = {}

    def __len__(self) -> int:
        return len(self._truth)

    def tolerance(self, key: LevelShape) -> float:
        return max((part.placement.tolerance(key.shape) for part in self._of(key)), default=0.0)

    def estimate(self, key: LevelShape, out: Tensor) -> None:
        """Write the best IoU (G,) with a shape, give or take `tolerance`."""
        for part in self._of(key):
            found = out if part.boxes is None else torch.empty(len(part.boxes))
            part.placement.estimate(key.shape, found)
            if part.boxes is not None:
                out[part.boxes] = found

    def exact(self, key: LevelShape, boxes: Tensor) -> Tensor:
        """The best IoU (n,) of `boxes` (n,) with a shape, as brute force finds it."""
        return self._ask(key, boxes, lambda placement, chosen: placement.exact(key.shape, chosen))

    def count_above(self, key: LevelShape, threshold: float, boxes: Tensor) -> Tensor:
        """How many anchors (n,) of a shape reach the threshold with each of `boxes` (n,)."""
        return self._ask(key, boxes, lambda placement, chosen: placement.count_above(key.shape, threshold, chosen))

    def _ask(self, key: LevelShape, boxes: Tensor, question: Callable[[Placement, Tensor], Tensor]) -> Tensor:
        parts = self._of(key)
        if parts[0].boxes is None:
            return question(parts[0].placement, boxes)
        answers = []
        for part in parts:
            local = part.number[boxes]
            mine = (local >= 0).nonzero().squeeze(1)
            answers.append((mine, question(part.placement, local[mine])))
        order = torch.cat([mine for mine, _ in answers])
        together = torch.cat([answer for _, answer in answers])
        return torch.empty_like(together).scatter_(0, order, together)

    def _of(self, key: LevelShape) -> "list[_Part]":
        place = (key.level, key.stride, key.offset)
        if place not in self._parts:
            self._parts[place] = self._place(*place)
        return self._parts[place]

    def _place(self, level: int, stride: int | None, offset: float) -> "list[_Part]":
        """One placement of all boxes; where strides are inferred, one for each pair of strides that occurs."""
        if stride is not None:
            return [_Part(None, self._placement(None, level, (stride, stride), offset))]
        steps = (self._truth.padded // self._truth.grids[:, level])[self._truth.image]  # (G, 2): down, across
        parts = []
        for down, across in steps.unique(dim=0).tolist():
            boxes = ((steps[:, 0] == down) & (steps[:, 1] == across)).nonzero().squeeze(1)
            parts.append(_Part(boxes, self._placement(boxes, level, (down, across), offset), len(self)))
        return parts or [_Part(None, self._placement(None, level, (1, 1), offset))]

    def _placement(self, boxes: Tensor | None, level: int, steps: tuple[int, int], offset: float) -> Placement:
        """Some of the boxes (None: all) on one level."""
        truth = self._truth
        image = truth.image if boxes is None else truth.image[boxes]
        spans = self._spans if boxes is None else Spans(truth.boxes[boxes])

        def cells(axis: int) -> Cells:
            bounds = None
            if self._border is not None:
                bounds = (-self._border, (truth.sizes[:, axis].double() + self._border).float()[image])
            return Cells(truth.grids[:, level, axis][image], steps[axis], offset, bounds)

        return Placement(spans, columns=cells(1), rows=cells(0))


class _Part:
    """The boxes (n,) with the same strides, None for all, and which of them each box is (-1: none)."""

    def __init__(self, boxes: Tensor | None, placement: Placement, total: int = 0) -> None:
        self.boxes, self.placement = boxes, placement
        if boxes is not None:
            self.number = torch.full((total,), -1).scatter_(0, boxes, torch.arange(len(boxes)))
