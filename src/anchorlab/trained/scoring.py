"""The module of a training as evaluation uses it: also on mirrored images, and with the proposals kept."""

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from anchorlab.data.batch import Batch
from anchorlab.rpn.network import Predictions, RegionProposalNetwork
from anchorlab.rpn.proposals.nms import Proposals
from anchorlab.training.module import RPNModule


class Sink(Protocol):
    """Takes the proposals of one batch after the other, in pixels of the network's input."""

    def add(self, batch: Batch, proposals: list[Proposals]) -> None: ...


class Scoring(RPNModule):
    """Scores the proposals of a trained network.

    Args:
        seed: of the anchors that the losses sample, as in training.
        flip: also propose on the mirrored image; both sets go through one more NMS, and the best are kept.
        sink: takes all proposals that are scored, or None.
    """

    def __init__(
        self,
        network: RegionProposalNetwork,
        seed: int = 0,
        channels_last: bool = False,
        flip: bool = False,
        sink: Sink | None = None,
    ) -> None:
        super().__init__(network, _untrained, _untrained, seed, channels_last)
        self.flip = flip
        self.sink = sink

    def score(self, predictions: Predictions, batch: Batch) -> None:
        self._proposals: list[Proposals] = []
        super().score(predictions, batch)
        if self.sink is not None:
            self.sink.add(batch, self._proposals)

    def propose(self, predictions: Predictions, batch: Batch) -> list[Proposals]:
        proposals = self.network.propose(predictions, batch.sizes)
        if self.flip:
            other = mirrored(batch.to(self.device))
            back = [unmirrored(p, int(size[1])) for p, size in zip(self._plain(other), batch.sizes, strict=True)]
            proposals = [self._merged(*pair) for pair in zip(proposals, back, strict=True)]
        self._proposals = proposals
        return proposals

    @torch.no_grad()
    def _plain(self, batch: Batch) -> list[Proposals]:
        return self.network.propose(self(batch), batch.sizes)

    def _merged(self, a: Proposals, b: Proposals) -> Proposals:
        both = Proposals(*(torch.cat(pair) for pair in zip(a, b, strict=True)))
        best, scores = self.network.selector.thin(both.boxes, both.scores, both.level)
        return Proposals(*(field[best] for field in both))._replace(scores=scores)


def mirrored(batch: Batch) -> Batch:
    """The batch with each image mirrored within its own width; its boxes stay as they are."""
    images = batch.images.clone()
    for image, (height, width) in zip(images, batch.sizes.tolist(), strict=True):
        image[:, :height, :width] = image[:, :height, :width].flip(2)
    return replace(batch, images=images)


def unmirrored(proposals: Proposals, width: int) -> Proposals:
    """Proposals of a mirrored image, where they lie in the image; `anchor` still counts in the mirrored one."""
    x1, y1, x2, y2 = proposals.boxes.unbind(1)
    boxes: Tensor = torch.stack((width - x2, y1, width - x1, y2), dim=1)
    return proposals._replace(boxes=boxes)


def _untrained(*_: object) -> Any:
    raise AssertionError("nothing is trained here")
