"""Estimate of a job's duration from a few of its steps, for the sweep's table; it is not a benchmark."""

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from anchorlab.build import build, build_data, build_network, user_errors
from anchorlab.training.hardware import decide, flush_denormals
from anchorlab.training.module import build_module
from anchorlab.training.trainer import TrainerSettings

STEPS = 4
VAL_BATCHES = 3


@dataclass(frozen=True)
class Pace:
    """Seconds of a job's parts: start (imports, reading the data), a training step, a batch of a validation."""

    start: float
    step: float
    val_batch: float
    train_images: int
    val_images: int

    def seconds(self, config: Mapping[str, Any]) -> float:
        """Of a whole job with this config's schedule."""
        trainer, data = config["trainer"], config["data"]
        per_epoch = max(1, self.train_images // data["batch_size"])
        steps = per_epoch * trainer["epochs"]
        if trainer["max_steps"] is not None:
            steps = min(steps, trainer["max_steps"] * trainer["accumulate"])
        validations = max(1, steps // (per_epoch * trainer["val_every"]))
        batches = -(-self.val_images // (data["val_batch_size"] or data["batch_size"]))
        return self.start + steps * self.step + validations * batches * self.val_batch


class _Clock(ProgressBar):
    """In the place of a progress bar, so that Lightning shows none."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[float] = []
        self.val_batches: list[float] = []

    def disable(self) -> None:
        """Nothing is shown anyway."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.steps.append(time.perf_counter())

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.val_batches.append(time.perf_counter())


def pace_of(config: Mapping[str, Any], started: float) -> Pace | None:
    """The pace of a config's jobs on this machine, in one process; None, and a line why, where a step fails.

    Args:
        started: when this process began, by `time.perf_counter`.
    """
    flush_denormals()
    schedule = {"max_steps": STEPS, "limit_val_batches": VAL_BATCHES, "devices": 1, "strategy": "auto"}
    config = {**config, "trainer": {**config["trainer"], **schedule, "accumulate": 1, "val_every": 1}}
    clock = _Clock()
    try:
        network, data = build_network(config), build_data(config)
        with user_errors():
            data.setup()
        settings: TrainerSettings = build(decide(config["trainer"], network), "trainer")
        settings.prepare_process()
        module = build_module(config, network, settings)
        before = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            trainer = settings.trainer([clock], [], Path(folder))
            trainer.fit(module, datamodule=data)
            if not clock.val_batches:
                trainer.validate(module, datamodule=data, verbose=False)
    except Exception as error:  # out of memory, most often: the table can do without
        print(f"no steps could be timed: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return Pace(
        before - started,
        _pace(clock.steps, before),
        _pace(clock.val_batches, before),
        len(data.train_records),
        len(data.val_records),
    )


def _pace(ends: list[float], before: float) -> float:
    """Seconds between two ends; a single one counts from the beginning."""
    between = [after - end for end, after in pairwise(ends)]
    return median(between) if between else ends[0] - before
