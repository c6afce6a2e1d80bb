"""Predictions of a batch: the head's output on whole maps or at sampled anchors; neither a loss nor proposals.

B images | A anchors of one image, all levels | k anchors per location | H, W size of a level's grid
S: anchors a loss asks about, of all images
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from anchorlab.rpn.adaptive_conv import AlignedMap
from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.cascade import Moved
from anchorlab.rpn.heads import HeadOutput, RPNHead, flatten
from anchorlab.rpn.sampled_conv import PendingMap

Rank = Callable[[Tensor, Tensor], Tensor]
"""Objectness and quality logits -> the logits that rank proposals."""


class LevelPredictions(NamedTuple):
    """What the head says about one level."""

    logits: Tensor  # (B, k, H, W), one per anchor whatever the head's objectness
    deltas: Tensor  # (B, 4k, H, W), the four of anchor j in channels 4j to 4j + 3


class Outputs(NamedTuple):
    """What the head says about the anchors a loss asks about, in float32."""

    logits: Tensor  # (S,) objectness
    deltas: Tensor  # (S, 4)
    quality: Tensor | None  # (S,) logits

    def detached(self) -> "Outputs":
        """The same without gradient."""
        return Outputs(*(None if part is None else part.detach() for part in self))  # pyright: ignore[reportArgumentType]

    def of(self, rows: Tensor) -> "Outputs":
        """Those of some of these anchors, by a mask (S,) or indices."""
        return Outputs(*(None if part is None else part[rows] for part in self))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Predictions:
    """What the network says about a batch, as maps per level and in the order of `anchors.boxes`, the grid."""

    levels: list[LevelPredictions]
    anchors: Anchors
    quality_levels: list[Tensor] | None = None  # (B, k, H, W) logits of each level
    rank: Rank | None = None
    moved: Moved | None = None  # what a first stage made of the anchors
    maps: Sequence[Tensor] = ()  # (B, C, H, W) of each level, where a second look pools features

    @cached_property
    def objectness(self) -> Tensor:
        """(B, A) float32 logits of "object"."""
        return torch.cat([flatten(level.logits, 1) for level in self.levels], dim=1).squeeze(-1)

    @cached_property
    def quality(self) -> Tensor | None:
        """(B, A) float32 logits of the third output, where the head has one."""
        if self.quality_levels is None:
            return None
        return torch.cat([flatten(level, 1) for level in self.quality_levels], dim=1).squeeze(-1)

    @cached_property
    def logits(self) -> Tensor:
        """(B, A) float32 logits of the scores that rank proposals: objectness, with quality where there is one."""
        if self.quality is None or self.rank is None:
            return self.objectness
        return self.rank(self.objectness, self.quality)

    @cached_property
    def deltas(self) -> Tensor:
        """(B, A, 4) float32, from the anchors to the predicted boxes."""
        return torch.cat([flatten(level.deltas, 4) for level in self.levels], dim=1)

    @property
    def num_locations(self) -> int:
        """Grid cells of all levels, in one image."""
        return sum(level.logits[0, 0].numel() for level in self.levels)

    def anchors_of(self, image: int) -> Anchors:
        """The anchors that the head's deltas of an image start from."""
        return self.anchors if self.moved is None else self.moved.of(image)

    @property
    def starts(self) -> Anchors:
        """The same of all images, as `ProposalSelector` takes them."""
        return self.anchors if self.moved is None else self.moved.of_all

    def at(self, rows: Sequence[Tensor]) -> Outputs:
        """What is said about these anchors of each image, image by image in their order."""
        logits = torch.cat([self.objectness[i, anchors] for i, anchors in enumerate(rows)])
        deltas = torch.cat([self.deltas[i, anchors] for i, anchors in enumerate(rows)])
        if self.quality is None:
            return Outputs(logits, deltas, None)
        return Outputs(logits, deltas, torch.cat([self.quality[i, anchors] for i, anchors in enumerate(rows)]))


@dataclass(frozen=True)
class PendingPredictions:
    """Predictions that are computed for some anchors alone, for a loss; the same numbers at less cost."""

    features: Sequence[PendingMap | AlignedMap]
    head: RPNHead
    anchors: Anchors  # the grid
    moved: Moved | None = None  # as in `Predictions`
    maps: Sequence[Tensor] = ()  # as in `Predictions`

    @property
    def num_locations(self) -> int:
        """Grid cells of all levels, in one image."""
        return sum(feature.grid[0] * feature.grid[1] for feature in self.features)

    def anchors_of(self, image: int) -> Anchors:
        """As `Predictions.anchors_of`."""
        return self.anchors if self.moved is None else self.moved.of(image)

    def at(self, rows: Sequence[Tensor]) -> Outputs:
        """As `Predictions.at`."""
        grids = [feature.grid for feature in self.features]

        def at(level: int, locations: Tensor) -> HeadOutput:
            return self.head.at(level, self.features[level], locations)

        return at_locations(rows, self.anchors, grids, self.head.num_anchors, at)


def at_locations(
    rows: Sequence[Tensor],
    anchors: Anchors,
    grids: Sequence[tuple[int, int]],
    num_anchors: Sequence[int],
    at: Callable[[int, Tensor], HeadOutput],
) -> Outputs:
    """What `at(level, locations)` says of the anchors `rows` of each image, each location asked about once.

    `locations` are ascending indices into B * H * W of a level; `grids` are (H, W), `num_anchors` k of each level.
    """
    images = torch.cat([torch.full_like(numbers, i) for i, numbers in enumerate(rows)])
    numbers = torch.cat(list(rows))
    results, order, first = [], [], 0
    for level, (grid, k, count) in enumerate(zip(grids, num_anchors, anchors.num_per_level, strict=True)):
        (here,) = ((numbers >= first) & (numbers < first + count)).nonzero(as_tuple=True)
        number = numbers[here] - first
        locations, row = (images[here] * (grid[0] * grid[1]) + number // k).unique(return_inverse=True)
        said = at(level, locations)
        results.append([None if part is None else part[row, number % k].float() for part in said])
        order.append(here)
        first += count
    back = torch.cat(order).argsort()
    logits, deltas, quality = (
        None if parts[0] is None else torch.cat(parts)[back] for parts in zip(*results, strict=True)
    )
    return Outputs(logits, deltas, quality)  # pyright: ignore[reportArgumentType]
