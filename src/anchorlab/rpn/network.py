"""The Region Proposal Network: images -> predictions, and from those a loss or proposals; not a detector.

B images | A anchors of one image, all levels | k anchors per location | G boxes of one image
H, W size of an image or of a level's grid | P sampled positives and N sampled negatives of one image

The way of an image: backbone -> feature maps -> head -> logits and deltas, one per anchor. Anchors enter at
exactly two places: the assigner, which says what each should predict, and the coder, which says what its
deltas mean.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anchorlab.rpn.anchors import AnchorGrid, Anchors
from anchorlab.rpn.assigners.max_iou import Assigner, best_boxes
from anchorlab.rpn.backbones.backbones import Backbone
from anchorlab.rpn.cascade import AnchorRefinement, Moves
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead
from anchorlab.rpn.losses.box import LossCounts, RPNLoss
from anchorlab.rpn.losses.quality import Quality
from anchorlab.rpn.predictions import LevelPredictions, PendingPredictions, Predictions
from anchorlab.rpn.proposals.nms import Proposals, ProposalSelector
from anchorlab.rpn.samplers import Sampler
from anchorlab.rpn.targets import BatchTargets, ImageTargets

Sizes = Tensor | Sequence[tuple[int, int]]


class Losses(NamedTuple):
    """Losses of a batch, weighted, and how many anchors of each image they were taken over."""

    objectness: Tensor  # scalar
    box: Tensor  # scalar
    num_positives: Tensor  # (B,) int64
    num_negatives: Tensor  # (B,) int64
    others: dict[str, Tensor]  # scalars by name: "quality" where the head has such an output, "stage1" with a cascade
    box_iou: (
        Tensor  # scalar, of the positives' predicted boxes and the boxes they should be: a mean, 0 where there are none
    )
    anchor_iou: Tensor  # scalar, the same of the positives' anchors

    @property
    def terms(self) -> dict[str, Tensor]:
        """The scalars that add up to `total`, by name."""
        return {"objectness": self.objectness, "box": self.box} | self.others

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum() if self.others else self.objectness + self.box


class RegionProposalNetwork(nn.Module):
    """Faster R-CNN's first stage (section 3.1), trained on its own.

    `forward`, `loss` and `propose` are separate calls, and what they return never depends on training mode.

    Raises:
        ValueError: backbone, anchors and head disagree about strides, channels or anchors per location, or other
            parts cannot work together.
    """

    def __init__(
        self,
        backbone: Backbone,
        anchors: AnchorGrid,
        head: RPNHead,
        coder: DeltaCoder,
        assigner: Assigner,
        sampler: Sampler,
        loss: RPNLoss,
        proposals: ProposalSelector,
        quality: Quality | None = None,
        cascade: AnchorRefinement | None = None,
    ):
        super().__init__()
        _check_agreement(backbone, anchors, head)
        _check_parts(head, sampler, loss, quality)
        _check_cascade(cascade, assigner)
        proposals.check_levels(len(backbone.strides))
        self.backbone = backbone
        self.anchors = anchors
        self.head = head
        self.coder = coder
        self.assigner = assigner
        self.sampler = sampler
        self.criterion = loss
        self.selector = proposals
        self.quality = quality
        self.cascade = cascade

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
        anchors, moved = self._anchors(features, images), None
        if self.cascade is not None:
            features, moved = self.cascade(features, anchors)
        outputs = self.head(features)
        levels = [LevelPredictions(self.head.logits(output.scores), output.deltas) for output in outputs]
        if self.quality is None:
            return Predictions(levels, anchors, moved=moved)
        quality = [output.quality for output in outputs if output.quality is not None]
        return Predictions(levels, anchors, quality, self.quality.rank, moved)

    @property
    def learns_from_few(self) -> bool:
        """Whether a loss asks about a bounded number of anchors: the one rule for what `pending` can save.

        A first stage is needed everywhere, as any moved anchor may overlap a box, but the second's features are not,
        unless 3x3 convolutions of the head look at their neighbours.
        """
        return self.sampler.num is not None and (self.cascade is None or len(self.head.conv) == 0)

    def pending(self, images: Tensor) -> PendingPredictions | Predictions:
        """Predictions for images (B, 3, H, W) that only `loss` can use: it has them computed where it samples.

        The loss and its gradients are those of `forward`, up to the order of floating-point sums. Away from the
        sampled anchors the head, and the pyramid's last convolutions, are never evaluated. Where the loss asks about
        all anchors, these are the predictions of `forward`.
        """
        if not self.learns_from_few:
            return self(images)
        if self.cascade is None:
            features = self.backbone.pending(images)
            return PendingPredictions(features, self.head, self._anchors([f.source for f in features], images))
        maps = self.backbone(images)
        anchors = self._anchors(maps, images)
        aligned, moved = self.cascade.pending(maps, anchors)
        return PendingPredictions(aligned, self.head, anchors, moved)

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
        pairs = as_pairs(sizes)
        images = enumerate(zip(boxes, ignore, pairs, generators, strict=True))
        targets = [self.targets(predictions.anchors_of(i), *image) for i, image in images]
        moves = self._moves(predictions.anchors, zip(boxes, ignore, pairs, strict=True))
        batch = BatchTargets(targets, predictions.at([image.rows for image in targets]), self.coder)
        counts = self._counts(targets, moves, predictions.num_locations)
        counts = counts if average is None else average(counts)
        regression = batch.regression
        objectness, box = self.criterion(batch.logits, batch.is_object, regression, counts)
        device = objectness.device
        positives = max(len(regression.boxes), 1)
        return Losses(
            objectness,
            box,
            num_positives=torch.tensor([len(image.positive) for image in targets], device=device),
            num_negatives=torch.tensor([len(image.negative) for image in targets], device=device),
            others=self._quality_loss(batch, counts) | self._cascade_loss(predictions, moves, counts),
            box_iou=regression.iou.sum() / positives,
            anchor_iou=regression.anchor_iou.sum() / positives,
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
        objects = boxes[~ignore].float()
        positive, negative = self.sampler(assignment.label, generator, partial(_overlap, anchors, objects))
        matched, positive_anchors = boxes[assignment.box_index[positive]].float(), anchors.boxes[positive]
        deltas = self.coder.encode(positive_anchors, matched)
        if self.quality is None:
            return ImageTargets(positive, negative, deltas, positive_anchors, matched)
        near = self.quality.draw(anchors, objects, generator)
        near_anchors = anchors.boxes[near.anchor]
        return ImageTargets(positive, negative, deltas, positive_anchors, matched, near, near_anchors)

    def propose(self, predictions: Predictions, sizes: Sizes) -> list[Proposals]:
        """The proposals of each image, best first, clipped to its own (height, width), without gradient."""
        return self.selector(predictions.logits, predictions.deltas, predictions.starts, self.coder, as_pairs(sizes))

    def propose_moved(self, predictions: Predictions, sizes: Sizes) -> list[Proposals]:
        """The first stage's boxes as proposals, with the scores of the second: what the second adds is the rest."""
        deltas = torch.zeros_like(predictions.deltas)
        return self.selector(predictions.logits, deltas, predictions.starts, self.coder, as_pairs(sizes))

    def _moves(self, anchors: Anchors, images: Iterable[tuple[Tensor, Tensor, tuple[int, int]]]) -> list[Moves]:
        """Of images with boxes, ignore and size; empty without a first stage."""
        return [] if self.cascade is None else [self.cascade.moves(anchors, *image) for image in images]

    def _counts(self, targets: Sequence[ImageTargets], moves: Sequence[Moves], num_locations: int) -> LossCounts:
        positives = sum(len(image.positive) for image in targets)
        near = sum(0 if image.near is None else len(image.near.anchor) for image in targets)
        return LossCounts(
            budget=(self.sampler.num or 0) * len(targets),
            locations=num_locations * len(targets),
            sampled=max(positives + sum(len(image.negative) for image in targets), 1),
            positives=positives,
            images=len(targets),
            near=max(near, 1),
            moves=max(sum(len(image.anchor) for image in moves), 1),
        )

    def _quality_loss(self, batch: BatchTargets, counts: LossCounts) -> dict[str, Tensor]:
        if self.quality is None:
            return {}
        logits, anchors, predicted, near = batch.near
        return {"quality": self.quality.loss(logits, self.quality.target(anchors, predicted, near), counts.near)}

    def _cascade_loss(
        self, predictions: Predictions | PendingPredictions, moves: Sequence[Moves], counts: LossCounts
    ) -> dict[str, Tensor]:
        if self.cascade is None:
            return {}
        assert predictions.moved is not None
        return {"stage1": self.cascade.loss(predictions.moved, moves, counts.moves)}

    def _anchors(self, maps: Sequence[Tensor], images: Tensor) -> Anchors:
        """The anchors of maps (B, any, h, w), one per level, of images (B, 3, H, W)."""
        grids = [(feature.shape[-2], feature.shape[-1]) for feature in maps]
        return self.anchors(grids, (images.shape[-2], images.shape[-1]), images.device)


def _overlap(anchors: Anchors, boxes: Tensor, least: float) -> Tensor:
    """The best IoU (A,) of each anchor with one of the boxes (G, 4), 0 where it is below `least`."""
    anchor, _, iou = best_boxes(anchors, boxes, least)
    return torch.zeros(len(anchors.boxes), device=iou.device).scatter_(0, anchor, iou)


def as_pairs(sizes: Sizes) -> list[tuple[int, int]]:
    """(height, width) of each image, as numbers."""
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


def _check_cascade(cascade: AnchorRefinement | None, assigner: Assigner) -> None:
    if cascade is not None and assigner.needs_grid:
        raise ValueError(
            "cascade moves the anchors off their grid, and this assigner reads rows and columns of them: "
            "set assigner=max_iou."
        )


def _check_parts(head: RPNHead, sampler: Sampler, loss: RPNLoss, quality: Quality | None) -> None:
    if (head.quality is None) != (quality is None):
        raise ValueError("The head's quality output and the network's quality belong together: give both or neither.")
    if loss.divisor == "budget" and sampler.num is None:
        raise ValueError(
            "loss.divisor=budget divides by the sampler's budget, and this sampler takes all anchors: "
            "set loss.divisor=positives."
        )
