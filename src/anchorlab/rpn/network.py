"""The Region Proposal Network of Faster R-CNN: turns images into predictions, and those into a loss or proposals.

It is no detector, and plain: a quality output, a first stage that moves anchors and a second look at the best boxes are
added in `variants.py`.

B images | A anchors of one image, all levels | k anchors per location | G boxes of one image
H, W size of an image or of a level's grid | P sampled positives and N sampled negatives of one image

The way of an image: backbone -> feature maps -> head -> logits and deltas, one per anchor. Anchors enter at
exactly two places: the assigner, which says what each should predict, and the coder, which says what its
deltas mean.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anchorlab.rpn.anchors import AnchorGrid, Anchors
from anchorlab.rpn.assigners.max_iou import Assigner, Assignment, best_boxes
from anchorlab.rpn.backbones.backbones import Backbone
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead
from anchorlab.rpn.losses.box import LossCounts, Regression, RPNLoss
from anchorlab.rpn.predictions import LevelPredictions, Outputs, PendingPredictions, Predictions
from anchorlab.rpn.proposals.nms import Candidates, Proposals, ProposalSelector
from anchorlab.rpn.samplers import Sampler
from anchorlab.rpn.targets import ImageTargets

Sizes = Tensor | Sequence[tuple[int, int]]

Average = Callable[[Tensor], Tensor]
"""Numbers of this process -> their means over all processes that share a batch."""


class Losses(NamedTuple):
    """Losses of a batch, weighted, and how many anchors of each image they were taken over."""

    objectness: Tensor  # scalar
    box: Tensor  # scalar
    num_positives: Tensor  # (B,) int64
    num_negatives: Tensor  # (B,) int64
    others: dict[str, Tensor]  # scalars by name: what a variant of the network adds
    box_iou: Tensor  # scalar, mean IoU of the positives' predicted boxes with their objects; 0 without positives
    anchor_iou: Tensor  # scalar, the same of the positives' anchors
    targets: Sequence[ImageTargets]  # the sampled anchors of each image
    outputs: Outputs  # what the head says about them, without gradient

    @property
    def terms(self) -> dict[str, Tensor]:
        """The scalars that add up to `total`, by name."""
        return {"objectness": self.objectness, "box": self.box} | self.others

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum() if self.others else self.objectness + self.box

    def plus(self, name: str, term: Tensor) -> "Losses":
        """These losses and one more."""
        return self._replace(others=self.others | {name: term})


class RegionProposalNetwork(nn.Module):
    """Faster R-CNN's first stage (section 3.1), trained on its own.

    `forward`, `loss` and `propose` are separate calls, and what they return never depends on training mode.

    Raises:
        ValueError: backbone, anchors and head disagree about strides, channels or anchors per location, or other
            parts cannot work together.
    """

    num_outputs = 2
    """Of the head, that are used: scores and deltas."""

    num_stages = 1
    """Of boxes: with 2 of them `propose_first_stage` says what the first alone would propose."""

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
    ):
        super().__init__()
        _check_agreement(backbone, anchors, head)
        _check_parts(head, sampler, loss, self.num_outputs)
        proposals.check_levels(len(backbone.strides))
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
        mean = _on(device, self.backbone.mean).view(3, 1, 1)
        std = _on(device, self.backbone.std).view(3, 1, 1)
        normal = (images / 255 - mean) / std
        heights, widths = sizes.to(device, non_blocking=True).view(-1, 2, 1).unbind(1)  # (B, 1) each
        rows = torch.arange(images.shape[2], device=device) < heights  # (B, H)
        columns = torch.arange(images.shape[3], device=device) < widths  # (B, W)
        return normal.where((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)

    def forward(self, images: Tensor) -> Predictions:
        """Predictions for normalised, padded images (B, 3, H, W) of any height and width."""
        maps = self.backbone(images)
        return self.predict(maps, self.anchors_on(maps, images))

    def predict(self, maps: Sequence[Tensor], anchors: Anchors) -> Predictions:
        """What the head says on feature maps (B, C, h, w), one per level, whose anchors these are."""
        levels = [LevelPredictions(self.head.logits(output.scores), output.deltas) for output in self.head(maps)]
        return Predictions(levels, anchors)

    @property
    def learns_from_few(self) -> bool:
        """Whether a loss asks about a bounded number of anchors: the one rule for what `pending` can save."""
        return self.sampler.num is not None

    def pending(self, images: Tensor) -> PendingPredictions | Predictions:
        """Predictions for images (B, 3, H, W) that only `loss` can use: it has them computed where it samples.

        The loss and its gradients are those of `forward`, up to the order of floating-point sums. Away from the
        sampled anchors the head, and the pyramid's last convolutions, are never evaluated. Where the loss asks about
        all anchors, these are the predictions of `forward`.
        """
        if not self.learns_from_few:
            return self(images)
        maps = self.backbone.pending(images)
        return PendingPredictions(maps, self.head, self.anchors_on([level.source for level in maps], images))

    def loss(
        self,
        predictions: Predictions | PendingPredictions,
        boxes: Sequence[Tensor],
        ignore: Sequence[Tensor],
        sizes: Sizes,
        generators: Sequence[torch.Generator],
        average: Average | None = None,
    ) -> Losses:
        """Losses of a batch against its boxes: assign, sample, ask the head about the sample, compare.

        Args:
            boxes: per image (G, 4), in pixels of the input; G may be 0.
            ignore: per image (G,) bool, regions that are neither object nor background.
            sizes: (height, width) of each image's content, (B, 2).
            generators: one per image; each draws that image's sampled anchors, so that they do not depend on
                which other images share the batch or the process.
            average: takes the mean over all processes that share a batch; None: there is one.
        """
        targets = self.batch_targets(predictions, boxes, ignore, sizes, generators)
        outputs = predictions.at([image.rows for image in targets])
        return self.losses_of(targets, outputs, predictions.num_locations, average)

    def batch_targets(
        self,
        predictions: Predictions | PendingPredictions,
        boxes: Sequence[Tensor],
        ignore: Sequence[Tensor],
        sizes: Sizes,
        generators: Sequence[torch.Generator],
    ) -> list[ImageTargets]:
        """The `targets` of each image, for the anchors that its predictions start from."""
        images = enumerate(zip(boxes, ignore, as_pairs(sizes), generators, strict=True))
        return [self.targets(predictions.anchors_of(i), *image) for i, image in images]

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
        return self.sample(self.assigner(anchors, boxes, ignore, size), anchors, boxes, ignore, generator)

    @torch.no_grad()
    def sample(
        self, assignment: Assignment, anchors: Anchors, boxes: Tensor, ignore: Tensor, generator: torch.Generator
    ) -> ImageTargets:
        """Samples anchors of one image that are assigned already."""
        objects = boxes[~ignore].float()
        positive, negative = self.sampler(assignment.label, generator, partial(_overlap, anchors, objects))
        matched, positive_anchors = boxes[assignment.box_index[positive]].float(), anchors.boxes[positive]
        deltas = self.coder.encode(positive_anchors, matched)
        return ImageTargets(positive, negative, deltas, positive_anchors, matched)

    def losses_of(
        self, targets: Sequence[ImageTargets], outputs: Outputs, num_locations: int, average: Average | None
    ) -> Losses:
        """Losses of a batch from what the head says about the sampled anchors, in the order of their `rows`."""
        device = outputs.logits.device
        is_object = torch.cat([image.is_object for image in targets])
        regression = Regression(
            outputs.deltas[is_object],
            torch.cat([image.deltas for image in targets]),
            torch.cat([image.anchors for image in targets]),
            torch.cat([image.boxes for image in targets]),
            self.coder,
        )
        counts = self._counts(targets, num_locations)
        if average is not None:
            counts = LossCounts(*average(_on(device, counts, torch.float32)))
        objectness, box = self.criterion(outputs.logits, is_object, regression, counts)
        positives = max(len(regression.boxes), 1)
        return Losses(
            objectness,
            box,
            num_positives=_on(device, [len(image.positive) for image in targets]),
            num_negatives=_on(device, [len(image.negative) for image in targets]),
            others={},
            box_iou=regression.iou.sum() / positives,
            anchor_iou=regression.anchor_iou.sum() / positives,
            targets=targets,
            outputs=outputs.detached(),
        )

    def propose(self, predictions: Predictions, sizes: Sizes) -> list[Proposals]:
        """The proposals of each image, best first, clipped to its own (height, width), without gradient."""
        return self.selector(predictions.logits, predictions.deltas, predictions.starts, self.coder, as_pairs(sizes))

    def candidates(self, predictions: Predictions, image: int, size: tuple[int, int]) -> list[Candidates]:
        """What proposals of one image, of (height, width), are chosen from, after each stage of it: the last counts.

        Alone in their batch, without gradient.
        """
        row = slice(image, image + 1)
        logits, deltas = predictions.logits[row], predictions.deltas[row]
        return [self.selector.candidates(logits, deltas, predictions.anchors_of(image), self.coder)]

    def propose_first_stage(self, predictions: Predictions, sizes: Sizes) -> list[Proposals]:
        """Proposals of the boxes of the first stage, where there are two: what the second adds is the rest."""
        return self.propose(predictions, sizes)

    def anchors_on(self, maps: Sequence[Tensor], images: Tensor) -> Anchors:
        """The anchors of maps (B, any, h, w), one per level, of images (B, 3, H, W)."""
        grids = [(feature.shape[-2], feature.shape[-1]) for feature in maps]
        return self.anchors(grids, (images.shape[-2], images.shape[-1]), images.device)

    def _counts(self, targets: Sequence[ImageTargets], num_locations: int) -> LossCounts:
        positives = sum(len(image.positive) for image in targets)
        return LossCounts(
            budget=(self.sampler.num or 0) * len(targets),
            locations=num_locations * len(targets),
            sampled=max(positives + sum(len(image.negative) for image in targets), 1),
            positives=positives,
            images=len(targets),
        )


def _on(device: torch.device, numbers: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
    """Numbers as a tensor there; with `torch.tensor(device=...)` a GPU would first have to finish what it is at."""
    return torch.tensor(numbers, dtype=dtype).to(device, non_blocking=True)


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


def _check_parts(head: RPNHead, sampler: Sampler, loss: RPNLoss, num_outputs: int) -> None:
    if head.num_outputs != num_outputs:
        raise ValueError(
            f"The head has {head.num_outputs} outputs, and this network uses {num_outputs}: the third belongs to "
            "quality; give both or neither."
        )
    if loss.divisor == "budget" and sampler.num is None:
        raise ValueError(
            "loss.divisor=budget divides by the sampler's budget, and this sampler takes all anchors: "
            "set loss.divisor=positives."
        )
