"""Samplers: choose which labelled anchors of an image enter the loss; neither label nor weight them.

A: anchors of one image, p, n: sampled positives and negatives.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple, Protocol

import numpy as np
import torch
from annotated_types import MinLen
from torch import Tensor

from anchorlab.rpn.assigners.max_iou import BACKGROUND, OBJECT
from anchorlab.signatures import Count, InnerShare, Share, checked


def seeded(*key: int) -> torch.Generator:
    """A generator on the CPU whose random numbers are a function of the key alone; near keys have nothing in common."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


class Sampled(NamedTuple):
    """positive (p,) and negative (n,): int64 indices of anchors, ascending."""

    positive: Tensor
    negative: Tensor


Overlap = Callable[[float], Tensor]
"""least > 0 -> the best IoU (A,) of each anchor with a box of the image, 0 where that is below `least`."""


class Sampler(Protocol):
    """A rule that picks anchors of one image for the loss."""

    @property
    def num(self) -> int | None:
        """The most anchors it takes; None: as many as there are."""
        ...

    def __call__(self, label: Tensor, generator: torch.Generator, overlap: Overlap) -> Sampled:
        """As `BalancedSampler.__call__`; `overlap` is for samplers that look at IoU, and costs nothing unasked."""
        ...


@checked
class BalancedSampler:
    """Draws `num` anchors, of which at most the share `positive_fraction` are positive (Faster R-CNN, section
    3.1.3).

    Negatives fill up what positives leave, so that p + n = num wherever there are negatives enough.
    Raises ValueError for settings out of range.
    """

    def __init__(self, num: Count = 256, positive_fraction: Share = 0.5) -> None:
        self.num = num
        self.positive_fraction = positive_fraction

    def __call__(self, label: Tensor, generator: torch.Generator, overlap: Overlap | None = None) -> Sampled:
        """A uniform sample of the anchors labelled (A,) OBJECT, BACKGROUND or IGNORE (never sampled).

        A function of `label` and the generator's state alone; the generator may be the CPU's for labels on
        any device.
        """
        positive = (label == OBJECT).nonzero().squeeze(1)
        positive = choose(positive, int(self.num * self.positive_fraction), generator)
        negative = (label == BACKGROUND).nonzero().squeeze(1)
        return Sampled(positive, choose(negative, self.num - len(positive), generator))


@checked
class IoUBalancedSampler:
    """As the balanced sampler, but hard negatives come as often as easy ones (Libra R-CNN, Pang et al. 2019, 3.1).

    Nearly all background overlaps no box at all, so that a uniform sample hardly holds what is easily mistaken for an
    object. Here negatives are divided by their best IoU with a box, and each part gives as many.

    edges: the IoUs that divide them, ascending, above 0. [0.1, 0.2] are the paper's three equal parts below
        assigner.background_iou = 0.3. An IoU at an edge belongs above it. What a part lacks, all the others give.
    Raises ValueError for settings out of range.
    """

    def __init__(
        self,
        num: Count = 256,
        positive_fraction: Share = 0.5,
        edges: Annotated[Sequence[InnerShare], MinLen(1)] = (0.1, 0.2),
    ) -> None:
        self._objects = BalancedSampler(num, positive_fraction)
        if list(edges) != sorted(set(edges)):
            raise ValueError(f"edges={list(edges)} must be ascending IoUs between 0 and 1, such as [0.1,0.2].")
        self.num = num
        self.edges = tuple(edges)

    def __call__(self, label: Tensor, generator: torch.Generator, overlap: Overlap) -> Sampled:
        """As `BalancedSampler.__call__`, and a function of `overlap`, too."""
        positive, uniform = self._objects(label, generator)
        negative = (label == BACKGROUND).nonzero().squeeze(1)
        wanted = self.num - len(positive)
        if len(negative) <= wanted:
            return Sampled(positive, uniform)
        iou = overlap(self.edges[0])[negative]
        part = torch.bucketize(iou, iou.new_tensor(self.edges), right=True)
        share = wanted // (len(self.edges) + 1)
        chosen = torch.cat([choose(negative[part == p], share, generator) for p in range(len(self.edges) + 1)])
        left = torch.ones_like(label, dtype=torch.bool)
        left[chosen] = False
        others = choose(negative[left[negative]], wanted - len(chosen), generator)
        return Sampled(positive, torch.cat((chosen, others)).sort().values)


class AllSampler:
    """Every anchor that is OBJECT or BACKGROUND; for losses that make easy ones count little themselves.

    The head is then computed everywhere: `trainer.sampled_only` saves nothing.
    """

    num = None

    def __call__(self, label: Tensor, generator: torch.Generator, overlap: Overlap | None = None) -> Sampled:
        return Sampled((label == OBJECT).nonzero().squeeze(1), (label == BACKGROUND).nonzero().squeeze(1))


def choose(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the candidates (or all, if they are fewer), each subset equally likely; in their order."""
    total = len(candidates)
    if total <= count:
        return candidates
    # A permutation of 800,000 negatives for 256 of them would be the slowest step of a loss.
    chosen = torch.empty(0, dtype=torch.int64, device=generator.device)
    if total < 4 * count:
        chosen = torch.arange(total, device=generator.device)
    while len(chosen) < count:
        draws = torch.randint(total, (2 * count,), generator=generator, device=generator.device)
        chosen = torch.cat((chosen, draws)).unique()
    # No candidate is preferred by which distinct ones were drawn; a random part of them is uniform, too.
    part = torch.randperm(len(chosen), generator=generator, device=generator.device)[:count]
    return candidates[chosen[part].sort().values.to(candidates.device, non_blocking=True)]
