"""Callback that records how long training waits for data, and which samples were left out.

The loader measures and decides (data/loader.py); this callback only records it.
"""

import sys
import time
from typing import Any

import torch.distributed
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from anchorlab.data.module import DataModule
from anchorlab.data.sample import Problem
from anchorlab.runs.record import RunRecord


class DataWatch(Callback):
    """Logs `train/data_wait` and keeps problems.txt up to date.

    `train/data_wait` is the share of training's time, since the metric before, in which it waited for a batch;
    run.json's timings hold `data_wait_s` and `data_wait_share` of the whole training, validation apart.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self._waited = 0.0  # seconds of all epochs
        self._training = 0.0
        self._at_log = (0.0, 0.0)  # both, when a metric was last logged
        self._before = 0.0  # what the loader had counted one step earlier
        self._clock = 0.0
        self._told = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._told = len(_data(trainer).problems)
        self.on_train_epoch_start(trainer, pl_module)  # a run that is resumed within an epoch starts none

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock = time.perf_counter()
        self._before = _waited(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        now, waited = time.perf_counter(), _waited(trainer)
        self._training, self._clock = self._training + now - self._clock, now
        self._waited, self._before = self._waited + waited - self._before, waited
        passed = self._training - self._at_log[1]
        pl_module.log("train/data_wait", (self._waited - self._at_log[0]) / passed)
        if trainer.global_step % trainer.log_every_n_steps == 0:  # pyright: ignore[reportAttributeAccessIssue]
            self._at_log = (self._waited, self._training)
        self._tell(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._tell(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Also the problems that other processes met."""
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, _data(trainer).problems)
            for problem in (problem for problems in gathered for problem in problems):
                _data(trainer).note(problem)
            self._tell(trainer)
        if trainer.is_global_zero and self._training:
            share = self._waited / self._training
            self.record.add(timings={"data_wait_s": round(self._waited, 2), "data_wait_share": round(share, 4)})

    def _tell(self, trainer: Trainer) -> None:
        """Say and write down what is new, on the first process."""
        problems = _data(trainer).problems
        new: list[Problem] = problems[self._told :]
        self._told = len(problems)
        if new and trainer.is_global_zero:
            for problem in new:
                print(f"warning: {problem}", file=sys.stderr)
            self.record.write_problems(_data(trainer).listed)


def _data(trainer: Trainer) -> DataModule:
    return trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]


def _waited(trainer: Trainer) -> float:
    """Seconds that the training loader's batches were waited for."""
    assert trainer.train_dataloader is not None
    return trainer.train_dataloader.waited
