"""Callback that keeps an exponential moving average of the weights, validated and saved in their place."""

from collections.abc import Sequence

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from anchorlab.signatures import Share, checked


@checked
class MovingAverage(WeightAveraging):
    """Exponential moving average of weights and statistics, one update per optimizer step.

    Update n leaves the average the share min(decay, (1 + n) / (10 + n)), as TensorFlow's ExponentialMovingAverage does
    with `num_updates`: with 0.998 from the start, a run of a few hundred steps would keep much of its first weights.
    """

    def __init__(self, decay: Share) -> None:
        def update(averages: Sequence[Tensor], currents: Sequence[Tensor], updates: Tensor) -> None:
            share = 1 - ((1 + updates) / (10 + updates)).clamp(max=decay)  # a tensor: no wait for a GPU
            for average, current in zip(averages, currents, strict=True):
                if average.is_floating_point():
                    average.lerp_(current, share.to(average.dtype))
                else:
                    average.copy_(current)  # a counter

        super().__init__(multi_avg_fn=update)
