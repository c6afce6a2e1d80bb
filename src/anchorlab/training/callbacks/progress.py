"""Progress callbacks: a bar where there is a terminal, and a line per epoch everywhere."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from anchorlab.console import console


class ConsoleProgress(ProgressBar):
    """A bar while an epoch runs, where there is a terminal, and one line when it is validated, everywhere."""

    only_watches = True

    def __init__(self) -> None:
        super().__init__()
        self._console = console()
        self._enabled = True
        self._bar: Progress | None = None
        self._previous: Mapping[str, float] = {}
        self._losses: list[float] = []
        self._epoch_started = 0.0
        self._validated = False

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        """Lightning's call on all processes but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that is resumed within an epoch starts none."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_started = time.perf_counter()
        self._losses = []
        self._validated = False
        self._start(trainer, f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", self.total_train_batches)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._losses.append(float(trainer.callback_metrics["train/loss"]))
        self._advance(f"loss {np.mean(self._losses[-20:]):.3f}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer, "validation", self.total_val_batches)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._advance("")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True
        self._stop()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()
        if self._enabled:
            # Lightning keeps the metrics of the last validation, however many epochs ago it was.
            metrics = (
                {name: float(value) for name, value in trainer.callback_metrics.items()} if self._validated else {}
            )
            self._console.print(self._epoch_line(trainer, metrics), soft_wrap=True)
            self._previous = metrics or self._previous

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _epoch_line(self, trainer: Trainer, metrics: Mapping[str, float]) -> str:
        parts = [
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            f"loss {np.mean(self._losses):.3f}",
        ]
        if "val/loss" in metrics:
            parts.append(f"val loss {metrics['val/loss']:.3f}")
        for name in ("recall_100", "AR_100", "AR_1000"):
            if f"val/{name}" in metrics:
                parts.append(name.replace("_", "@") + " " + self._with_change(f"val/{name}", metrics))
        return "  ".join([*parts, f"{time.perf_counter() - self._epoch_started:.0f} s"])

    def _with_change(self, key: str, metrics: Mapping[str, float]) -> str:
        now = metrics[key]
        change = f" ({now - self._previous[key]:+.3f})" if key in self._previous else ""
        return f"[bold]{now:.3f}[/bold]{change}"

    def _start(self, trainer: Trainer, description: str, total: float | list[Any]) -> None:
        self._stop()
        if not (self._enabled and self._console.is_terminal):
            return
        count = sum(total) if isinstance(total, list) else total
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._bar.add_task(description, total=count, note="")
        self._bar.start()

    def _advance(self, note: str) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=1, note=note)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
