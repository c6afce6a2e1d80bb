"""Training targets of one image: its sampled anchors and what each should predict; computes nothing.

P sampled positives, N sampled negatives
"""

from typing import NamedTuple

import torch
from torch import Tensor


class ImageTargets(NamedTuple):
    """What the sampled anchors of one image should predict."""

    positive: Tensor  # (P,) int64, anchors that should say "object"
    negative: Tensor  # (N,) int64, anchors that should say "background"
    deltas: Tensor  # (P, 4) float32, from the positive anchors to their boxes
    anchors: Tensor  # (P, 4) float32, the positive anchors
    boxes: Tensor  # (P, 4) float32, their boxes

    @property
    def rows(self) -> Tensor:
        """(P + N,), the sampled anchors, positive ones first."""
        return torch.cat((self.positive, self.negative))

    @property
    def is_object(self) -> Tensor:
        """(P + N,) bool, in the order of `rows`."""
        return torch.cat((torch.ones_like(self.positive), torch.zeros_like(self.negative))).bool()
