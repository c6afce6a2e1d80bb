"""Anchor refinement: a first stage that moves the anchors and aligns features with them; does not score them.

Vu et al. 2019, "Cascade RPN: Delving into High-Quality Region Proposal Network with Adaptive Convolution". From one
anchor per location a dilated convolution predicts where the object in whose middle the location lies has its sides
(section 3.2). The second stage must see the anchor it judges: its 3x3 convolution samples the features at a 3x3 grid
over the moved anchor instead of over its cell (section 3.3; `adaptive_conv.py`), and the usual head follows.

B images | A anchors of one image, all levels | C channels | H, W a level's grid | P anchors that learn to move
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from anchorlab.rpn.adaptive_conv import AlignedMap, sampling_offsets
from anchorlab.rpn.anchor_iou import Scattered
from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.assigners.max_iou import OBJECT, Assigner
from anchorlab.rpn.boxes import paired_iou
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import flatten
from anchorlab.signatures import Count, NotNegative, checked


@dataclass(frozen=True, eq=False)
class MovedAnchors(Anchors):
    """The anchors of one image after the first stage: no grid any more, but the same rows as before."""

    @cached_property
    def lattice(self) -> Scattered:
        return Scattered(self.boxes)


@dataclass(frozen=True)
class Moved:
    """What the first stage says about a batch."""

    anchors: Anchors  # the grid it started from
    deltas: Tensor  # (B, A, 4) float32, from there
    boxes: Tensor  # (B, A, 4) float32, where the anchors are now, without gradient

    def of(self, image: int) -> MovedAnchors:
        """The anchors of one image."""
        return MovedAnchors(self.boxes[image], (), self.anchors.num_per_level)

    @property
    def of_all(self) -> Anchors:
        """The anchors of all images at once, as `ProposalSelector` takes them: boxes (B, A, 4)."""
        return replace(self.anchors, boxes=self.boxes, levels=())


class Moves(NamedTuple):
    """The anchors of one image that learn to move (P,), and to where (P, 4)."""

    anchor: Tensor
    boxes: Tensor


@checked
class AnchorRefinement(nn.Module):
    """The first stage, and the convolution that aligns features for the second.

    Args:
        assigner: which anchors learn to move, and to which box (the paper: the middle of a box).
        coder: of the moves.
        weight: factor of the loss, which is 1 - IoU averaged over the anchors that learn.
        dilation: of the first stage's 3x3 convolution (3 in the paper).
        in_channels: the backbone's channels, which both convolutions keep.
        num_anchors: k of every level, which must be 1: a location has one set of features to align.
        strides: pixels per cell of every level.

    Weights start as normal(0, 0.01), those of the moves and all biases as 0: at first anchors stay where they are,
    however large the features are. (Elsewhere 1 - IoU would have no gradient that leads back.)
    """

    def __init__(
        self,
        assigner: Assigner,
        coder: DeltaCoder,
        weight: NotNegative = 1.0,
        dilation: Count = 3,
        *,
        in_channels: int,
        num_anchors: Sequence[int],
        strides: Sequence[int],
    ):
        super().__init__()
        _check(num_anchors)
        self.assigner = assigner
        self.coder = coder
        self.weight = weight
        self.strides = tuple(strides)
        self.conv = nn.Conv2d(in_channels, in_channels, 3, padding=dilation, dilation=dilation)
        self.deltas = nn.Conv2d(in_channels, 4, 1)
        self.adaptive = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        for layer in (self.conv, self.deltas, self.adaptive):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(cast(Tensor, layer.bias))
        nn.init.zeros_(self.deltas.weight)

    def forward(self, features: Sequence[Tensor], anchors: Anchors) -> tuple[list[Tensor], Moved]:
        """Features aligned with the moved anchors, (B, C, H, W) of each level as before, and those anchors."""
        aligned, moved = self.pending(features, anchors)
        return [level.whole() for level in aligned], moved

    def pending(self, features: Sequence[Tensor], anchors: Anchors) -> tuple[list[AlignedMap], Moved]:
        """As `forward`, with the second stage's features yet to be computed where they are asked for."""
        bridge = [self.conv(feature).relu() for feature in features]
        deltas = torch.cat([flatten(self.deltas(level), 4) for level in bridge], dim=1)  # (B, A, 4)
        boxes = self.coder.decode(anchors.boxes, deltas.detach())
        per_level = boxes.split(anchors.num_per_level, dim=1)
        aligned = [
            AlignedMap(feature, sampling_offsets(moved, level, stride), self.adaptive)
            for feature, moved, level, stride in zip(bridge, per_level, anchors.levels, self.strides, strict=True)
        ]
        return aligned, Moved(anchors, deltas, boxes)

    @torch.no_grad()
    def moves(self, anchors: Anchors, boxes: Tensor, ignore: Tensor, size: tuple[int, int]) -> Moves:
        """Who learns to move in one image: boxes (G, 4), ignore (G,), size (height, width)."""
        assignment = self.assigner(anchors, boxes, ignore, size)
        anchor = (assignment.label == OBJECT).nonzero().squeeze(1)
        return Moves(anchor, boxes[assignment.box_index[anchor]].float())

    def loss(self, moved: Moved, moves: Sequence[Moves], count: float | Tensor) -> Tensor:
        """Weighted sum of 1 - IoU over the anchors that learn, divided by `count`."""
        deltas = torch.cat([moved.deltas[i, image.anchor] for i, image in enumerate(moves)])
        start = torch.cat([moved.anchors.boxes[image.anchor] for image in moves])
        boxes = torch.cat([image.boxes for image in moves])
        return self.weight * (1 - paired_iou(self.coder.decode(start, deltas), boxes)).sum() / count


def _check(num_anchors: Sequence[int]) -> None:
    if set(num_anchors) != {1}:
        raise ValueError(
            f"cascade moves one anchor per location, and anchor gives k={list(num_anchors)}: "
            "set anchor.ratios=[1] and one size per level, or cascade=none."
        )
