"""Callback that stops a run between epochs so that it can be resumed (successive halving); not early stopping."""

from collections.abc import Iterable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from anchorlab.signatures import Count, checked


@checked
class StopAfter(Callback):
    """Ends the fit after so many epochs, counted from the run's beginning; its schedule stays the full-length one.

    A run that is resumed there goes on to the next stop, or to its end.

    Args:
        epochs: null: no stop.
    """

    only_watches = True

    def __init__(self, epochs: Count | None = None) -> None:
        self.epochs = epochs
        self.stopped = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stopped = False
        self._start = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.current_epoch + 1
        last = trainer.max_epochs is not None and done >= trainer.max_epochs
        if self.epochs is not None and self._start < self.epochs <= done and not last:
            self.stopped = True
            trainer.should_stop = True


def stopped_after(callbacks: Iterable[Callback]) -> int | None:
    """The epoch after which one of a trainer's callbacks ended its fit at a rung; None where none did."""
    return next(
        (callback.epochs for callback in callbacks if isinstance(callback, StopAfter) and callback.stopped), None
    )
