"""Trainer of the config group `trainer`: builds Lightning's Trainer (length, devices, precision) and prepares the
process.
"""

import logging
import math
import warnings
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, MinLen
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy, StrategyRegistry

from anchorlab.signatures import AUTO, Count, CountOrZero, NotNegative, Positive, checked
from anchorlab.training.callbacks.checkpoints import WholeFiles
from anchorlab.training.ddp import FixedBucketsStrategy
from anchorlab.training.environments import environment
from anchorlab.training.hardware import keep_freed_memory

QUIET = (
    ".*does not have many workers.*",
    ".*Checkpoint directory.*exists.*",
    ".*lower value for log_every_n_steps.*",
    ".*LeafSpec.*",
    ".*in eval mode at the start of training.*",  # frozen batch norm is meant to be
    ".*could not find the monitored key.*",  # an epoch without validation has no best checkpoint
    ".*your dataloader is not resumable.*",  # it is: its order is a function of the epoch, see data/dataset.py
    ".*Grad strides do not match bucket view strides.*",  # of 1x1 convolutions: two names for the same order
    ".*sync_dist=True.*",  # every process logs the same metrics already
    ".*`srun` command is available.*",  # a machine of a cluster, and a process that needs no other
)
PRECISIONS = {32: "32-true", 16: "16-mixed", "bf16": "bf16-mixed"}


@checked
@dataclass(frozen=True)
class TrainerSettings:
    """The group's keys, with every "auto" already decided (see `hardware.decide`)."""

    epochs: Count = 10
    max_steps: Count | None = None
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Annotated[int, Ge(-1)] | Annotated[list[CountOrZero], MinLen(1)] | Literal["auto"] = 1
    num_nodes: Count = 1
    strategy: str = "auto"
    timeout: Positive = 30
    precision: Literal["auto", 32, "bf16", 16] = 32
    channels_last: Annotated[bool, AUTO] = False
    sampled_only: Annotated[bool, AUTO] = True
    keep_memory: Annotated[bool, AUTO] = False
    threads: Annotated[int, Ge(1), AUTO] = 1
    gradient_clip: Positive | None = 10
    accumulate: Count = 1
    val_every: Count = 1
    limit_val_batches: Count | None = None
    log_every: Count = 10
    checkpoint_every: NotNegative | None = 10

    def prepare_process(self) -> None:
        """Set what belongs to the process: memory, threads, and the silence of libraries that advertise."""
        if self.keep_memory:
            keep_freed_memory()
        torch.set_num_threads(self.threads)
        _quiet_lightning()

    def trainer(self, callbacks: list[Callback], loggers: list[Logger], folder: Path) -> Trainer:
        """Lightning's Trainer. Its sampler wrapping is off: our own samplers know the processes.

        Its `max_steps` stays unused: with it, a run resumed between two epochs goes through the first one's end again.
        """
        return Trainer(
            default_root_dir=folder,
            max_epochs=self.epochs,
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.num_nodes,
            strategy=self._strategy(),
            precision=PRECISIONS[self.precision],  # pyright: ignore[reportArgumentType]
            gradient_clip_val=self.gradient_clip,
            accumulate_grad_batches=self.accumulate,
            check_val_every_n_epoch=self.val_every,
            limit_val_batches=self.limit_val_batches,
            log_every_n_steps=self.log_every,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            callbacks=[*callbacks, StopAtStep(self.max_steps), LogEachEpoch(self.max_steps)],
            logger=loggers,
            plugins=[plugin for plugin in (WholeFiles(), environment()) if plugin is not None],
        )

    def _strategy(self) -> str | Strategy:
        """Lightning's strategy of this name; several processes do not wait longer than `timeout` for each other."""
        if self.strategy not in StrategyRegistry:
            return self.strategy
        entry = StrategyRegistry[self.strategy]
        if entry["strategy"] is not DDPStrategy:
            return self.strategy
        return FixedBucketsStrategy(**{**entry["init_params"], "timeout": timedelta(minutes=self.timeout)})


class StopAtStep(Callback):
    """Ends the fit after so many optimizer steps, counted from the run's beginning; None: never."""

    def __init__(self, steps: int | None) -> None:
        self.steps = steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        if self.steps is not None and trainer.global_step >= self.steps:
            trainer.should_stop = True


class LogEachEpoch(Callback):
    """Lowers `trainer.log_every` to the steps of an epoch, or of the whole run, so that short ones have a loss, too."""

    def __init__(self, max_steps: int | None) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        bounds = [steps] if self.max_steps is None else [steps, self.max_steps]
        trainer.log_every_n_steps = min(trainer.log_every_n_steps, *bounds)  # pyright: ignore[reportAttributeAccessIssue]


def _quiet_lightning() -> None:
    """Lightning tells of devices, other products and its own deprecations; the start screen says what matters."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
