"""IoU of boxes with anchors that lie anywhere, behind the same three questions as a lattice; it labels nothing.

Here every anchor is compared with every box, in parts: refined anchors have neither rows nor columns. They are few,
one per location.

G: boxes, A: anchors, P: pairs of an anchor and a box
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from anchorlab.rpn.anchor_iou import MAX_OVERLAPS, Pairs
from anchorlab.rpn.boxes import Region, inside, pairwise_iof, pairwise_iou


class Scattered:
    """Anchors (A, 4), ready for comparison with boxes (G, 4) float32; `Lattice` says what each call gives."""

    def __init__(self, anchors: Tensor) -> None:
        self._anchors = anchors

    def best_iou(self, boxes: Tensor, region: Region | None = None) -> Tensor:
        parts = [self._iou(boxes[rows], region).amax(dim=1) for rows in self._parts(boxes)]
        return torch.cat(parts) if parts else boxes.new_zeros(0)

    def pairs_above(self, boxes: Tensor, threshold: Tensor, region: Region | None = None) -> Pairs:
        found = [
            _pairs(self._iou(boxes[rows], region), threshold[rows, None], rows.start) for rows in self._parts(boxes)
        ]
        return _together(found, boxes)

    def pairs_inside(self, boxes: Tensor, threshold: float) -> Pairs:
        found = [
            _pairs(pairwise_iof(self._anchors, boxes[rows]).nan_to_num().T, threshold, rows.start)
            for rows in self._parts(boxes)
        ]
        return _together(found, boxes)

    def _iou(self, boxes: Tensor, region: Region | None) -> Tensor:
        """(G, A); 0 for anchors outside, and for those without area."""
        return pairwise_iou(boxes, self._anchors).nan_to_num() * inside(self._anchors, region)

    def _parts(self, boxes: Tensor) -> Iterator[slice]:
        size = max(1, MAX_OVERLAPS // max(len(self._anchors), 1))
        return (slice(start, start + size) for start in range(0, len(boxes), size))


def _pairs(overlap: Tensor, threshold: Tensor | float, first: int) -> Pairs:
    """Those of (G, A) that reach the threshold; boxes are numbered from `first`."""
    box, anchor = (overlap >= threshold).nonzero(as_tuple=True)
    return Pairs(anchor, first + box, overlap[box, anchor])


def _together(parts: list[Pairs], boxes: Tensor) -> Pairs:
    if not parts:
        none = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return Pairs(none, none, boxes.new_zeros(0))
    return Pairs(*(torch.cat(field) for field in zip(*parts, strict=True)))
