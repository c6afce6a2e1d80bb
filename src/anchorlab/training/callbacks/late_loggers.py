"""Callback that starts the loggers which training does not depend on behind its first step, and shows what they say."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from anchorlab.console import Facts, console, in_sweep
from anchorlab.training.loggers.hub import loggers_of


class LateLoggers(Callback):
    """Behind the first step of a run, or of a resumed one."""

    def __init__(self) -> None:
        self._started = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._started:
            return
        self._started = True
        notices = loggers_of(trainer).start_waiting()
        if notices and not in_sweep():
            console().print(Facts(notices))
