"""Learning-rate schedules over optimizer steps; each takes the run's total number of steps from the caller."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Lt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from anchorlab.signatures import Positive, Share, checked


@checked
def one_cycle(optimizer: Optimizer, total_steps: int, warmup: Annotated[float, Ge(0), Lt(1)]) -> LRScheduler:
    """Up to each group's learning rate over the first `warmup` share of the steps, then down along a cosine.

    torch's OneCycleLR (Smith and Topin 2017); momentum (Adam's beta1) moves the other way, as it does by default.
    """
    peaks = [group["lr"] for group in optimizer.param_groups]
    # Below four steps, or where the ascent is a single step, OneCycleLR divides by zero.
    total = max(total_steps, 4)
    return OneCycleLR(optimizer, max_lr=peaks, total_steps=total, pct_start=max(warmup, 2 / total))


@checked
def steps(
    optimizer: Optimizer, total_steps: int, warmup: Share, milestones: Sequence[Share], gamma: Positive
) -> LRScheduler:
    """Linear warm-up over a share of the steps, then x `gamma` at each milestone, given as shares too."""
    return LambdaLR(
        optimizer,
        lambda step: (
            _ramp(step, warmup * total_steps)
            * gamma ** sum(step >= milestone * total_steps for milestone in milestones)
        ),
    )


@checked
def constant(optimizer: Optimizer, total_steps: int, warmup: Share) -> LRScheduler:
    """The optimizer's learning rate throughout, after a linear warm-up over a share of the steps."""
    return LambdaLR(optimizer, lambda step: _ramp(step, warmup * total_steps))


def _ramp(step: int, length: float) -> float:
    return min(1.0, (step + 1) / length) if length >= 1 else 1.0
