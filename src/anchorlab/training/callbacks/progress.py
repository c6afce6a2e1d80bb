"""Progress callbacks: a bar where there is a terminal, and a line per epoch everywhere."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import Progress
from rich.text import Text

from anchorlab.console import NARROW, bar, console, duration, place_in_sweep


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
        self._pace = _Pace()

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
        self._pace.start_epoch()
        self._start(self._epoch(trainer), self.total_train_batches)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._losses.append(float(trainer.callback_metrics["train/loss"]))
        self._pace.note_batch()
        left = self._pace.left(trainer, len(self._losses), self._console.width < NARROW)
        self._advance(f"loss {np.mean(self._losses[-20:]):.3f}", left)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pace.start_validation()
        self._start("validation", self.total_val_batches)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._advance("", "")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True
        self._pace.end_validation()
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

    @staticmethod
    def _epoch(trainer: Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"

    def _epoch_line(self, trainer: Trainer, metrics: Mapping[str, float]) -> str:
        """In a narrow terminal without what the end screen repeats."""
        named = {"recall_100": "recall@100", "AR_100": "AR@100", "AR_1000": "AR@1000"}
        parts = [f"{self._epoch(trainer)}", f"loss {np.mean(self._losses):.3f}"]
        if "val/loss" in metrics:
            parts.append(f"val loss {metrics['val/loss']:.3f}")
        parts += [
            f"{shown} {self._with_change(f'val/{key}', metrics)}"
            for key, shown in named.items()
            if f"val/{key}" in metrics
        ]
        parts.append(f"in {duration(time.perf_counter() - self._epoch_started)}")
        for spare in ("AR@1000", "val loss", "recall@100"):
            if self._console.is_terminal and len(Text.from_markup("  ".join(parts))) > self._console.width:
                parts = [part for part in parts if not part.startswith(spare)]
        return "  ".join(parts)

    def _with_change(self, key: str, metrics: Mapping[str, float]) -> str:
        now = metrics[key]
        change = f" ({now - self._previous[key]:+.3f})" if key in self._previous else ""
        return f"[bold]{now:.3f}[/bold]{change}"

    def _start(self, description: str, total: float | list[Any]) -> None:
        self._stop()
        if not self._enabled:
            return
        count = sum(total) if isinstance(total, list) else total
        description = "  ".join(filter(None, [place_in_sweep(), description]))
        self._bar = bar(self._console, len(description))
        self._bar.add_task(description, total=count)
        self._bar.start()

    def _advance(self, note: str, left: str) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=1, note=note, left=left)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Pace:
    """Seconds of a training batch and of a validation, as measured so far, and what is left by them."""

    def __init__(self) -> None:
        self._clock = 0.0
        self._batches, self._training = 0, 0.0
        self._validation: float | None = None

    def start_epoch(self) -> None:
        self._clock = time.perf_counter()

    def note_batch(self) -> None:
        now = time.perf_counter()
        self._batches, self._training, self._clock = self._batches + 1, self._training + now - self._clock, now

    def start_validation(self) -> None:
        self._clock = time.perf_counter()

    def end_validation(self) -> None:
        self._validation = time.perf_counter() - self._clock

    def left(self, trainer: Trainer, done: int, brief: bool) -> str:
        """`epoch 40 s, run 12 min left`, after `done` batches of the epoch; validations are known from the
        first one on."""
        each, of_epoch = self._training / self._batches, int(trainer.num_training_batches)
        epochs = (trainer.max_epochs or 1) - trainer.current_epoch - 1
        batches = of_epoch - done + epochs * of_epoch
        if trainer.max_steps > 0:
            batches = min(batches, (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
        validations = (epochs + 1) // max(1, trainer.check_val_every_n_epoch or 1)
        whole = each * batches + validations * (self._validation or 0.0)
        run = f"run {duration(whole)} left"
        return run if brief else f"epoch {duration(each * min(of_epoch - done, batches))}, {run}"
