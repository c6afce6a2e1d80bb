"""The Region Proposal Network: images -> predictions, and from those a loss or proposals; not a detector.

B images | A anchors of one image, all levels | k anchors per location | G boxes of one image
H, W size of an image or of a level's grid | P sampled positives and N sampled negatives of one image
S = P + N over all images of a batch

The way of an image: backbone -> feature maps -> head -> logits and deltas, one per anchor. Anchors enter at
exactly two places: the assigner, which says what each should predict, and the coder, which says what its
deltas mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anchorlab.rpn.anchors import AnchorGrid, Anchors
from anchorlab.rpn.assigners import MaxIoUAssigner
from anchorlab.rpn.backbones import Backbone
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead
from anchorlab.rpn.losses import LossCounts, RPNLoss
from anchorlab.rpn.proposals import Proposals, ProposalSelector
from anchorlab.rpn.samplers import BalancedSampler
from anchorlab.rpn.sparse import PendingMap

Sizes = Tensor | Sequence[tuple[int, int]]


class LevelPredictions(NamedTuple):
    """What the head says about one level."""

    logits: Tensor  # (B, k, H, W), one per anchor whatever the head's objectness
    deltas: Tensor  # (B, 4k, H, W), the four of anchor j in channels 4j to 4j + 3


@dataclass(frozen=True)
class Predictions:
    """What the network says about a batch, as maps per level and in the order of `anchors.boxes`."""

    levels: list[LevelPredictions]
    anchors: Anchors

    @cached_property
    def logits(self) -> Tensor:
        """(B, A) float32."""
        return torch.cat([_flatten(level.logits, 1) for level in self.levels], dim=1).squeeze(-1)

    @cached_property
    def deltas(self) -> Tensor:
        """(B, A, 4) float32."""
        return torch.cat([_flatten(level.deltas, 4) for level in self.levels], dim=1)

    @property
    def num_locations(self) -> int:
        """Grid cells of all levels, in one image."""
        return sum(level.logits[0, 0].numel() for level in self.levels)

    def sampled(self, targets: Sequence["ImageTargets"]) -> tuple[Tensor, Tensor]:
        """Logits (S,) and deltas (S, 4) of the sampled anchors: image by image, positives before negatives."""
        rows = [image.sampled for image in targets]
        logits = torch.cat([self.logits[i, anchors] for i, anchors in enumerate(rows)])
        return logits, torch.cat([self.deltas[i, anchors] for i, anchors in enumerate(rows)])


@dataclass(frozen=True)
class PendingPredictions:
    """Predictions that are computed for sampled anchors alone, for a loss; the same numbers at less cost."""

    features: list[PendingMap]
    head: RPNHead
    anchors: Anchors

    @property
    def num_locations(self) -> int:
        """Grid cells of all levels, in one image."""
        return sum(feature.grid[0] * feature.grid[1] for feature in self.features)

    def sampled(self, targets: Sequence["ImageTargets"]) -> tuple[Tensor, Tensor]:
        """As `Predictions.sampled`."""
        rows = [image.sampled for image in targets]
        images = torch.cat([torch.full_like(anchors, i) for i, anchors in enumerate(rows)])
        anchors = torch.cat(rows)
        results, order, first = [], [], 0
        for level, (feature, count) in enumerate(zip(self.features, self.anchors.num_per_level, strict=True)):
            (here,) = ((anchors >= first) & (anchors < first + count)).nonzero(as_tuple=True)
            results.append(self._at(level, feature, images[here], anchors[here] - first))
            order.append(here)
            first += count
        back = torch.cat(order).argsort()
        logits, deltas = (torch.cat(parts)[back] for parts in zip(*results, strict=True))
        return logits, deltas

    def _at(self, level: int, feature: PendingMap, images: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n,) and deltas (n, 4) of n anchors of one level, given with the image of each."""
        k = self.head.num_anchors[level]
        height, width = feature.grid
        locations, row = (images * (height * width) + anchors // k).unique(return_inverse=True)
        logits, deltas = self.head.at(level, feature, locations)
        return logits[row, anchors % k].float(), deltas[row, anchors % k].float()


class Losses(NamedTuple):
    """Losses of a batch, weighted, and how many anchors of each image they were taken over."""

    objectness: Tensor  # scalar
    box: Tensor  # scalar
    num_positives: Tensor  # (B,) int64
    num_negatives: Tensor  # (B,) int64

    @property
    def total(self) -> Tensor:
        return self.objectness + self.box


class ImageTargets(NamedTuple):
    """What the sampled anchors of one image should predict."""

    positive: Tensor  # (P,) int64, anchors that should say "object"
    negative: Tensor  # (N,) int64, anchors that should say "background"
    deltas: Tensor  # (P, 4) float32, from the positive anchors to their boxes

    @property
    def sampled(self) -> Tensor:
        """(P + N,), the positive anchors before the negative ones."""
        return torch.cat((self.positive, self.negative))

    @property
    def is_object(self) -> Tensor:
        """(P + N,) bool, in the order of `sampled`."""
        return torch.cat((torch.ones_like(self.positive), torch.zeros_like(self.negative))).bool()


class RegionProposalNetwork(nn.Module):
    """Faster R-CNN's first stage (section 3.1), trained on its own.

    `forward`, `loss` and `propose` are separate calls, and what they return never depends on training mode.

    Raises:
        ValueError: backbone, anchors and head disagree about strides, channels or anchors per location.
    """

    def __init__(
        self,
        backbone: Backbone,
        anchors: AnchorGrid,
        head: RPNHead,
        coder: DeltaCoder,
        assigner: MaxIoUAssigner,
        sampler: BalancedSampler,
        loss: RPNLoss,
        proposals: ProposalSelector,
    ):
        super().__init__()
        _check_agreement(backbone, anchors, head)
        self.backbone = backbone
        self.anchors = anchors
        self.head = head
        self.coder = coder
        self.assigner = assigner
        self.sampler = sampler
        self.criterion = loss
        self.selector = proposals

    def prepare(self, images: Tensor, sizes: Tensor) -> Tensor:
        """The network's input (B, 3, H, W) float32 from padded images (B, 3, H, W) uint8, on their device.

        `sizes` (B, 2) are the contents' (height, width). Padding is zero *after* normalisation, so that it
        looks to the network like its convolutions' own padding, not like a black wall.
        """
        device = images.device
        mean = torch.tensor(self.backbone.mean, device=device).view(3, 1, 1)
        std = torch.tensor(self.backbone.std, device=device).view(3, 1, 1)
        normal = (images / 255 - mean) / std
        heights, widths = sizes.to(device).view(-1, 2, 1).unbind(1)  # (B, 1) each
        rows = torch.arange(images.shape[2], device=device) < heights  # (B, H)
        columns = torch.arange(images.shape[3], device=device) < widths  # (B, W)
        return normal.where((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)

    def forward(self, images: Tensor) -> Predictions:
        """Predictions for normalised, padded images (B, 3, H, W) of any height and width."""
        features = self.backbone(images)
        levels = [LevelPredictions(self.head.logits(scores), deltas) for scores, deltas in self.head(features)]
        return Predictions(levels, self._anchors([level.logits for level in levels], images))

    def pending(self, images: Tensor) -> PendingPredictions:
        """Predictions for images (B, 3, H, W) that only `loss` can use: it has them computed where it samples.

        The loss and its gradients are those of `forward`, up to the order of floating-point sums. Away from the
        sampled anchors the head, and the pyramid's last convolutions, are never evaluated.
        """
        features = self.backbone.pending(images)
        return PendingPredictions(features, self.head, self._anchors([f.source for f in features], images))

    def loss(
        self,
        predictions: Predictions | PendingPredictions,
        boxes: Sequence[Tensor],
        ignore: Sequence[Tensor],
        sizes: Sizes,
        generators: Sequence[torch.Generator],
        average: Callable[[LossCounts], LossCounts] | None = None,
    ) -> Losses:
        """Losses of a batch against its boxes.

        Args:
            boxes: per image (G, 4), in pixels of the input; G may be 0.
            ignore: per image (G,) bool, regions that are neither object nor background.
            sizes: (height, width) of each image's content, (B, 2).
            generators: one per image; each draws that image's sampled anchors, so that they do not depend on
                which other images share the batch or the process.
            average: the mean of the counts over all processes that share a batch; None: there is one.
        """
        images = zip(boxes, ignore, _as_pairs(sizes), generators, strict=True)
        targets = [self.targets(predictions.anchors, *image) for image in images]
        logits, deltas = predictions.sampled(targets)
        is_object = torch.cat([image.is_object for image in targets])
        wanted = torch.cat([image.deltas for image in targets])
        counts = LossCounts(
            budget=self.sampler.num * len(targets),
            locations=predictions.num_locations * len(targets),
            sampled=max(len(logits), 1),
        )
        counts = counts if average is None else average(counts)
        objectness, box = self.criterion(logits, is_object, deltas[is_object], wanted, counts)
        device = logits.device
        return Losses(
            objectness,
            box,
            num_positives=torch.tensor([len(image.positive) for image in targets], device=device),
            num_negatives=torch.tensor([len(image.negative) for image in targets], device=device),
        )

    @torch.no_grad()
    def targets(
        self,
        anchors: Anchors,
        boxes: Tensor,
        ignore: Tensor,
        size: tuple[int, int],
        generator: torch.Generator,
    ) -> ImageTargets:
        """Assigns and samples the anchors of one image: boxes (G, 4), ignore (G,), size (height, width)."""
        assignment = self.assigner(anchors, boxes, ignore, size)
        sampled = self.sampler(assignment.label, generator)
        matched = boxes[assignment.box_index[sampled.positive]]
        deltas = self.coder.encode(anchors.boxes[sampled.positive], matched)
        return ImageTargets(sampled.positive, sampled.negative, deltas)

    def propose(self, predictions: Predictions, sizes: Sizes) -> list[Proposals]:
        """The proposals of each image, best first, clipped to its own (height, width), without gradient."""
        return self.selector(predictions.logits, predictions.deltas, predictions.anchors, self.coder, _as_pairs(sizes))

    def _anchors(self, maps: Sequence[Tensor], images: Tensor) -> Anchors:
        """The anchors of maps (B, any, h, w), one per level, of images (B, 3, H, W)."""
        grids = [(feature.shape[-2], feature.shape[-1]) for feature in maps]
        return self.anchors(grids, (images.shape[-2], images.shape[-1]), images.device)


def _flatten(maps: Tensor, per_anchor: int) -> Tensor:
    """(B, k * per_anchor, H, W) -> (B, H * W * k, per_anchor), in float32."""
    return maps.permute(0, 2, 3, 1).reshape(len(maps), -1, per_anchor).float()


def _as_pairs(sizes: Sizes) -> list[tuple[int, int]]:
    pairs = sizes.tolist() if isinstance(sizes, Tensor) else sizes
    return [(int(height), int(width)) for height, width in pairs]


def _check_agreement(backbone: Backbone, anchors: AnchorGrid, head: RPNHead) -> None:
    for what, built_for, found in (
        ("The anchors were built for strides", anchors.strides, backbone.strides),
        ("The head was built for anchors per location", head.num_anchors, anchors.num_anchors),
        ("The head was built for input channels", [head.in_channels], [backbone.channels]),
    ):
        if list(built_for) != list(found):
            raise ValueError(f"{what} {list(built_for)}, but this network has {list(found)}: pass those on.")
