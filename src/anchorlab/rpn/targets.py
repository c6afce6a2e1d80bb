"""What the anchors of an image should predict, and of a batch the part its loss is taken over; nothing is learnt here.

P sampled positives, N sampled negatives, Q anchors that teach the quality output: of one image, or of all in a batch
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.losses.box import Regression
from anchorlab.rpn.losses.quality import Near
from anchorlab.rpn.predictions import Outputs

NEGATIVE, POSITIVE, NEAR = 0, 1, 2


class ImageTargets(NamedTuple):
    """What the sampled anchors of one image should predict."""

    positive: Tensor  # (P,) int64, anchors that should say "object"
    negative: Tensor  # (N,) int64, anchors that should say "background"
    deltas: Tensor  # (P, 4) float32, from the positive anchors to their boxes
    anchors: Tensor  # (P, 4) float32, the positive anchors
    boxes: Tensor  # (P, 4) float32, their boxes
    near: Near | None = None
    near_anchors: Tensor | None = None  # (Q, 4)

    @property
    def rows(self) -> Tensor:
        """(P + N + Q,), the anchors the loss asks about: positive ones, negative ones, those near a box."""
        near = () if self.near is None else (self.near.anchor,)
        return torch.cat((self.positive, self.negative, *near))

    @property
    def kinds(self) -> Tensor:
        """(P + N + Q,) int8, in the order of `rows`."""
        near = 0 if self.near is None else len(self.near.anchor)
        counts = torch.tensor([len(self.positive), len(self.negative), near])
        kinds = torch.tensor([POSITIVE, NEGATIVE, NEAR], dtype=torch.int8)
        return kinds.repeat_interleave(counts).to(self.positive.device)


@dataclass(frozen=True)
class BatchTargets:
    """The targets of all images, and what the head says where they ask (`outputs`, in the order of their rows)."""

    images: Sequence[ImageTargets]
    outputs: Outputs
    coder: DeltaCoder

    @cached_property
    def _kinds(self) -> Tensor:
        return torch.cat([image.kinds for image in self.images])

    @property
    def logits(self) -> Tensor:
        """(P + N,) objectness of the sampled anchors, image by image, positives before negatives."""
        return self.outputs.logits[self._kinds != NEAR]

    @property
    def is_object(self) -> Tensor:
        """(P + N,) bool, in the order of `logits`."""
        return self._kinds[self._kinds != NEAR] == POSITIVE

    @property
    def regression(self) -> Regression:
        return Regression(
            self.outputs.deltas[self._kinds == POSITIVE],
            torch.cat([image.deltas for image in self.images]),
            torch.cat([image.anchors for image in self.images]),
            torch.cat([image.boxes for image in self.images]),
            self.coder,
        )

    @property
    def near(self) -> tuple[Tensor, Tensor, Tensor, Near]:
        """Of the anchors that teach quality its logits (Q,), anchors and decoded boxes (Q, 4), and the batch's `Near`.

        Only where every image has them.
        """
        assert self.outputs.quality is not None
        rows = self._kinds == NEAR
        anchors = torch.cat([image.near_anchors for image in self.images if image.near_anchors is not None])
        near = Near(*(torch.cat(field) for field in zip(*[i.near for i in self.images if i.near], strict=True)))
        return self.outputs.quality[rows], anchors, self.coder.decode(anchors, self.outputs.deltas[rows]), near
