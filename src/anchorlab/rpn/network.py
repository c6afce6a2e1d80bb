"""The Region Proposal Network: images -> predictions, and from those a loss or proposals; not a detector.

B images | A anchors of one image, all levels | k anchors per location | G boxes of one image
H, W size of an image or of a level's grid | P sampled positives and N sampled negatives of one image

The way of an image: backbone -> feature maps -> head -> logits and deltas, one per anchor. Anchors enter at
exactly two places: the assigner, which says what each should predict, and the coder, which says what its
deltas mean.
"""

from collections.abc import Sequence
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
        height, width = images.shape[-2:]
        grids = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        return Predictions(levels, self.anchors(grids, (height, width), images.device))

    def loss(
        self,
        predictions: Predictions,
        boxes: Sequence[Tensor],
        ignore: Sequence[Tensor],
        sizes: Sizes,
        generators: Sequence[torch.Generator],
    ) -> Losses:
        """Losses of a batch against its boxes.

        Args:
            boxes: per image (G, 4), in pixels of the input; G may be 0.
            ignore: per image (G,) bool, regions that are neither object nor background.
            sizes: (height, width) of each image's content, (B, 2).
            generators: one per image; each draws that image's sampled anchors, so that they do not depend on
                which other images share the batch or the process.
        """
        images = zip(boxes, ignore, _as_pairs(sizes), generators, strict=True)
        targets = [self.targets(predictions.anchors, *image) for image in images]
        logits, labels = _sampled_logits(predictions.logits, targets)
        deltas = torch.cat([predictions.deltas[i, image.positive] for i, image in enumerate(targets)])
        counts = LossCounts(budget=self.sampler.num * len(targets), locations=predictions.num_locations * len(targets))
        wanted = torch.cat([image.deltas for image in targets])
        objectness, box = self.criterion(logits, labels, deltas, wanted, counts)
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


def _sampled_logits(logits: Tensor, targets: Sequence[ImageTargets]) -> tuple[Tensor, Tensor]:
    """Of logits (B, A) those of all sampled anchors, and their labels: 1 for object, 0 for background."""
    picked = [logits[i, torch.cat((image.positive, image.negative))] for i, image in enumerate(targets)]
    labels = [torch.cat((torch.ones_like(image.positive), torch.zeros_like(image.negative))) for image in targets]
    return torch.cat(picked), torch.cat(labels)


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
