"""Callbacks that break a run's data, or hold the run, from within: at one place, neither sooner nor later."""

import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class _InSecondEpoch(Callback):
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.act()

    def act(self) -> None:
        raise NotImplementedError


class Truncate(_InSecondEpoch):
    """Cuts a file off after 900 bytes."""

    def __init__(self, path: str):
        self.path = Path(path)

    def act(self) -> None:
        self.path.write_bytes(self.path.read_bytes()[:900])


class Remove(_InSecondEpoch):
    """Deletes a file."""

    def __init__(self, path: str):
        self.path = Path(path)

    def act(self) -> None:
        self.path.unlink()


class KillChildren(_InSecondEpoch):
    """Kills the processes that load the data."""

    def act(self) -> None:
        pid = os.getpid()
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)


class Hold(Callback):
    """Holds the run within its second epoch, before its sixth step, until somebody writes into a FIFO."""

    def __init__(self, fifo: str):
        self.fifo = Path(fifo)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 5:
            self.fifo.read_text()


class Stop(Callback):
    """Sends its process SIGTERM in the second epoch of a run that was not resumed.

    Args:
        moment: `step`: before the epoch's second step; `epoch`: before its first; `validation`: in its validation.
    """

    only_watches = True

    def __init__(self, moment: str):
        self.moment = moment

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._stop(trainer, "epoch" if batch_idx == 0 else "step")

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._stop(trainer, "validation")

    def _stop(self, trainer: Trainer, moment: str) -> None:
        if moment == self.moment and trainer.current_epoch == 1 and trainer.ckpt_path is None:
            os.kill(os.getpid(), signal.SIGTERM)
