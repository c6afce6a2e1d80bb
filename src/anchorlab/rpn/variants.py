"""Variants of the Region Proposal Network: add a quality output, a cascade or a second look; change none of its calls.

Each adds terms to the loss and leaves the others as they are. What is learnt, how anchors move, and what is looked at
again, is defined in `losses/quality.py`, `cascade.py` and `refine.py`.

B images | A anchors of one image | G boxes of one image | Q anchors of one image that teach the quality output
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.cascade import AnchorRefinement
from anchorlab.rpn.losses.quality import Near, Quality
from anchorlab.rpn.network import Average, Losses, RegionProposalNetwork, Sizes, as_pairs
from anchorlab.rpn.predictions import LevelPredictions, Outputs, PendingPredictions, Predictions
from anchorlab.rpn.proposals.nms import Candidates, Proposals
from anchorlab.rpn.refine import SecondLook


class QualityRPN(RegionProposalNetwork):
    """An RPN whose head says, as a third output, how well each box will fit; proposals are ranked by it, too.

    Args:
        quality: what the output learns, from which anchors, and how it ranks.
        parts: those of `RegionProposalNetwork`; the head must have been built with `quality=True`.
    """

    num_outputs = 3

    def __init__(self, *parts: Any, quality: Quality, **more: Any) -> None:
        super().__init__(*parts, **more)
        self.quality = quality

    def predict(self, maps: Sequence[Tensor], anchors: Anchors) -> Predictions:
        outputs = self.head(maps)
        levels = [LevelPredictions(self.head.logits(output.scores), output.deltas) for output in outputs]
        quality = [output.quality for output in outputs if output.quality is not None]
        return Predictions(levels, anchors, quality, self.quality.rank)

    def loss(
        self,
        predictions: Predictions | PendingPredictions,
        boxes: Sequence[Tensor],
        ignore: Sequence[Tensor],
        sizes: Sizes,
        generators: Sequence[torch.Generator],
        average: Average | None = None,
    ) -> Losses:
        """As of the plain network, and "quality"."""
        targets = self.batch_targets(predictions, boxes, ignore, sizes, generators)
        # After the sample, from the same generators: the output leaves the sample as it is.
        near = [
            self.quality.draw(predictions.anchors_of(i), boxes[i][~ignore[i]].float(), generator)
            for i, generator in enumerate(generators)
        ]
        # Asked about together, so that a location that both need is computed once.
        asked = [(image.rows, drawn.anchor) for image, drawn in zip(targets, near, strict=True)]
        outputs = predictions.at([torch.cat(rows) for rows in asked])
        parts = [torch.full_like(rows, kind) for image in asked for kind, rows in enumerate(image)]
        is_near = torch.cat(parts).bool()
        losses = self.losses_of(targets, outputs.of(~is_near), predictions.num_locations, average)
        anchors = torch.cat([predictions.anchors_of(i).boxes[drawn.anchor] for i, drawn in enumerate(near)])
        term = self._quality_loss(outputs.of(is_near), anchors, near, average)
        return losses.plus("quality", term)

    def _quality_loss(self, outputs: Outputs, anchors: Tensor, near: Sequence[Near], average: Average | None) -> Tensor:
        """Of the anchors (Q, 4) of all images that teach the output."""
        assert outputs.quality is not None
        together = Near(*(torch.cat(field) for field in zip(*near, strict=True)))
        target = self.quality.target(anchors, self.coder.decode(anchors, outputs.deltas), together)
        count = shared_count(len(together.anchor), average, anchors.device)
        return self.quality.loss(outputs.quality, target, count)


class CascadeRPN(RegionProposalNetwork):
    """An RPN whose anchors a first stage moves before the head judges them, on features that follow them.

    Args:
        cascade: the first stage.
        parts: those of `RegionProposalNetwork`, with an assigner that needs no grid.
    """

    num_stages = 2

    def __init__(self, *parts: Any, cascade: AnchorRefinement, **more: Any) -> None:
        super().__init__(*parts, **more)
        if self.assigner.needs_grid:
            raise ValueError(
                "cascade moves the anchors off their grid, and this assigner reads rows and columns of them: "
                "set assigner=max_iou."
            )
        self.cascade = cascade

    def forward(self, images: Tensor) -> Predictions:
        maps = self.backbone(images)
        anchors = self.anchors_on(maps, images)
        aligned, moved = self.cascade(maps, anchors)
        return replace(self.predict(aligned, anchors), moved=moved)

    @property
    def learns_from_few(self) -> bool:
        """As of the plain network, unless 3x3 convolutions of the head look at the neighbours of a sampled anchor.

        The first stage is needed everywhere, as any moved anchor may overlap a box; the second's features are not.
        """
        return super().learns_from_few and len(self.head.conv) == 0

    def pending(self, images: Tensor) -> PendingPredictions | Predictions:
        if not self.learns_from_few:
            return self(images)
        maps = self.backbone(images)
        anchors = self.anchors_on(maps, images)
        aligned, moved = self.cascade.pending(maps, anchors)
        return PendingPredictions(aligned, self.head, anchors, moved)

    def loss(
        self,
        predictions: Predictions | PendingPredictions,
        boxes: Sequence[Tensor],
        ignore: Sequence[Tensor],
        sizes: Sizes,
        generators: Sequence[torch.Generator],
        average: Average | None = None,
    ) -> Losses:
        """As without a cascade, from the moved anchors, and "stage1": how well they were moved."""
        losses = super().loss(predictions, boxes, ignore, sizes, generators, average)
        assert predictions.moved is not None
        images = zip(boxes, ignore, as_pairs(sizes), strict=True)
        moves = [self.cascade.moves(predictions.anchors, *image) for image in images]
        count = shared_count(sum(len(image.anchor) for image in moves), average, losses.box.device)
        return losses.plus("stage1", self.cascade.loss(predictions.moved, moves, count))

    def propose_first_stage(self, predictions: Predictions, sizes: Sizes) -> list[Proposals]:
        """The moved anchors as proposals, with the scores of the second stage."""
        deltas = torch.zeros_like(predictions.deltas)
        return self.selector(predictions.logits, deltas, predictions.starts, self.coder, as_pairs(sizes))


class CascadeQualityRPN(CascadeRPN, QualityRPN):
    """Both: the quality output judges the boxes of the second stage."""


class RefinedRPN(RegionProposalNetwork):
    """An RPN whose best boxes are looked at again, each with the features inside it, before proposals are chosen.

    Args:
        refine: the second look.
        parts: those of `RegionProposalNetwork`.
    """

    num_stages = 2

    def __init__(self, *parts: Any, refine: SecondLook, **more: Any) -> None:
        super().__init__(*parts, **more)
        self.refine = refine

    def forward(self, images: Tensor) -> Predictions:
        levels = self.backbone.pending_on(self.backbone.plain_maps(images))
        maps = [level.whole() for level in levels]
        return replace(self.predict(maps, self.anchors_on(maps, images)), maps=[level.source for level in levels])

    def pending(self, images: Tensor) -> PendingPredictions | Predictions:
        predictions = super().pending(images)
        if isinstance(predictions, Predictions):
            return predictions
        return replace(predictions, maps=[level.source for level in predictions.features])

    def loss(
        self,
        predictions: Predictions | PendingPredictions,
        boxes: Sequence[Tensor],
        ignore: Sequence[Tensor],
        sizes: Sizes,
        generators: Sequence[torch.Generator],
        average: Average | None = None,
    ) -> Losses:
        """As without a second look, and "refine_score" and "refine_box"."""
        losses = super().loss(predictions, boxes, ignore, sizes, generators, average)
        images = zip(self._found(predictions, losses), boxes, ignore, as_pairs(sizes), generators, strict=True)
        looks = [self.refine.draw(*found, box, ignored, size, own) for found, box, ignored, size, own in images]
        count = shared_count(sum(len(image.boxes) for image in looks), average, losses.box.device)
        second = self.refine.loss(predictions.maps, looks, count)
        return losses.plus("refine_score", second.score).plus("refine_box", second.box)

    @torch.no_grad()
    def _found(self, predictions: Predictions | PendingPredictions, losses: Losses) -> list[tuple[Tensor, Tensor]]:
        """Boxes (F, 4) and logits (F,) that the head predicted at the anchors of each image's loss."""
        rows = [image.rows for image in losses.targets]
        counts = [len(image) for image in rows]
        starts = torch.cat([predictions.anchors_of(i).boxes[image] for i, image in enumerate(rows)])
        boxes = self.coder.decode(starts, losses.outputs.deltas)
        return list(zip(boxes.split(counts), losses.outputs.logits.split(counts), strict=True))

    def propose(self, predictions: Predictions, sizes: Sizes) -> list[Proposals]:
        images = enumerate(as_pairs(sizes))
        return [self.selector.select(self.candidates(predictions, i, size)[-1], 0, size) for i, size in images]

    def candidates(self, predictions: Predictions, image: int, size: tuple[int, int]) -> list[Candidates]:
        """As without a second look, and of those the best, looked at, scored and moved again."""
        stages = super().candidates(predictions, image, size)
        maps = [level[image : image + 1] for level in predictions.maps]
        return [*stages, self.refine.candidates(maps, stages[-1], size)]

    def propose_first_stage(self, predictions: Predictions, sizes: Sizes) -> list[Proposals]:
        return super().propose(predictions, sizes)


class RefinedQualityRPN(RefinedRPN, QualityRPN):
    """Both: the quality output helps to rank the boxes that are looked at again."""


VARIANTS: dict[tuple[str, ...], type[RegionProposalNetwork]] = {
    (): RegionProposalNetwork,
    ("quality",): QualityRPN,
    ("cascade",): CascadeRPN,
    ("quality", "cascade"): CascadeQualityRPN,
    ("refine",): RefinedRPN,
    ("quality", "refine"): RefinedQualityRPN,
}


def variant(
    quality: Quality | None, cascade: AnchorRefinement | None, refine: SecondLook | None = None, **parts: Any
) -> RegionProposalNetwork:
    """The network with what is given of the three, and nothing in it of what is not."""
    given = {"quality": quality, "cascade": cascade, "refine": refine}
    added = {name: part for name, part in given.items() if part is not None}
    if tuple(added) not in VARIANTS:
        raise ValueError("refine and cascade are two ways to a second stage: set refine=none or cascade=none.")
    return VARIANTS[tuple(added)](**parts, **added)


def shared_count(number: int, average: Average | None, device: torch.device) -> int | Tensor:
    """What a loss over `number` anchors is divided by: at least 1, the mean over the processes that share a batch."""
    number = max(number, 1)
    return number if average is None else average(torch.tensor(float(number), device=device))
