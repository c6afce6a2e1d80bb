"""DDP with a fixed layout of its buckets, so that a resumed run adds gradients up in the order of the whole one.

DDP reduces gradients in buckets. It starts with one layout and changes to another, in the order in which gradients were
ready, after the first backward. From four processes on (gloo), where a gradient lies in its bucket decides the order
in which the processes' shares are added: the first step after a resume differed in the last bit from the same step of
the run that nobody stopped.
"""

from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class FixedBucketsStrategy(DDPStrategy):
    """Lightning's, with the model wrapped by `FixedBuckets`."""

    def _setup_model(self, model: nn.Module) -> DistributedDataParallel:
        devices = self.determine_ddp_device_ids()
        # torch's notes on CUDA graphs ask for a side stream; Lightning's own method does the same.
        with nullcontext() if devices is None else torch.cuda.stream(torch.cuda.Stream()):
            return FixedBuckets(module=model, device_ids=devices, **self._ddp_kwargs)


class FixedBuckets(DistributedDataParallel):
    """Reduces parameters from the last to the first, in buckets that are settled before the first step.

    That is about the order in which their gradients are ready, so that reducing still overlaps with the backward.
    With `find_unused_parameters`, DDP keeps its first layout by itself.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What DDP does itself for a process that has no first backward (`torch.distributed.algorithms.join`).
        self.reducer._push_all_rebuilt_params()
        self.reducer._rebuild_buckets()

    def _build_params_for_reducer(self) -> tuple[list[nn.Parameter], list[bool]]:
        parameters, expect_sparse_gradient = super()._build_params_for_reducer()
        if self.find_unused_parameters:
            return parameters, expect_sparse_gradient
        return parameters[::-1], expect_sparse_gradient[::-1]
