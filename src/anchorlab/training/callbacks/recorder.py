"""Callback that keeps a run's folder up to date: metrics and match ranks after each validation, and the run's end."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from anchorlab.data.sample import Record
from anchorlab.errors import DamagedFile
from anchorlab.metrics.from_ranks import AT_50, AT_70, THRESHOLDS, recall_from_ranks
from anchorlab.metrics.recall import ProposalRecall
from anchorlab.runs.reading import read_arrays
from anchorlab.runs.record import RunRecord
from anchorlab.training.loggers.hub import Loggers, loggers_of
from anchorlab.training.module import RPNModule
from anchorlab.training.resume import reason
from anchorlab.training.stopping import Stopped

MONITORED = "AR_100"
"""The metric the best checkpoint is chosen by."""
DRAWS_AFTER = 10.0
"""Seconds between two drawings of the recall curve, which takes a quarter of one: epochs can be shorter than that."""


class Recorder(Callback):
    """Writes through a RunRecord, on the first process only; puts the config into every checkpoint."""

    def __init__(self, record: RunRecord, config: Mapping[str, Any]) -> None:
        self.record = record
        self.config = dict(config)
        self._started = time.perf_counter()
        self._before = 0.0  # seconds that went by until the checkpoint of a resumed run
        self._images = 0
        self._training = 0.0  # seconds, waiting for data included
        self._clock = 0.0
        self._drawn = self._started  # when the recall curve was
        self._curve_is_drawn = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock = time.perf_counter()  # where a resumed run goes on within an epoch, no epoch starts

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch.images) * trainer.world_size
        now = time.perf_counter()
        self._training, self._clock = self._training + now - self._clock, now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, RPNModule)
        metrics = {
            name.removeprefix("val/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        # During a fit, an epoch counts as done only after its validation.
        epoch = trainer.current_epoch + int(trainer.state.fn == "fit")
        metrics |= {"epoch": epoch, "step": trainer.global_step}
        best = self.record.content["figures"]["best"].get(MONITORED, -np.inf)
        self.record.add(
            final=metrics,
            best=metrics if metrics[MONITORED] > best else None,
            timings={
                "fit_s": round(self._fit_seconds(), 2),
                "train_s": round(self._training, 2),
                "train_images_per_s": round(self._images / max(self._training, 1e-9), 2),
            },
        )
        images: list[Record] = trainer.datamodule.val_records  # pyright: ignore[reportAttributeAccessIssue]
        keep_ranks(self.record, pl_module.recall, images)
        self._curve_is_drawn = False
        if time.perf_counter() - self._drawn >= DRAWS_AFTER:
            self._draw_curve()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._draw_curve()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        assert isinstance(pl_module, RPNModule)
        checkpoint["config"] = self.config  # plain containers: the file loads with weights_only=True
        checkpoint["scored_step"] = pl_module.scored_step

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        assert isinstance(pl_module, RPNModule)
        pl_module.scored_step = checkpoint["scored_step"]
        loggers_of(trainer).cut_back(checkpoint["global_step"], checkpoint["scored_step"])

    def state_dict(self) -> dict[str, Any]:
        return {"fit_s": self._fit_seconds(), "train_s": self._training, "images": self._images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict["fit_s"]
        self._training = state_dict["train_s"]
        self._images = state_dict["images"]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not trainer.is_global_zero:
            return
        with contextlib.suppress(OSError, DamagedFile):  # a full disk, perhaps the very exception
            if not isinstance(exception, Stopped):
                self.record.fail(reason(exception))
            self._draw_curve()

    def _draw_curve(self) -> None:
        """Of the last validation, from its file: it may be one before this process was resumed."""
        ranks = self.record.folder / "recall.npz"
        if self._curve_is_drawn or not ranks.exists():
            return
        arrays = read_arrays(ranks)
        epoch = int(self.record.content["figures"]["final"]["epoch"])
        draw_recall(self.record.folder, arrays, f"{len(arrays['index'])} validation images, epoch {epoch}")
        self._drawn, self._curve_is_drawn = time.perf_counter(), True

    def _fit_seconds(self) -> float:
        return self._before + time.perf_counter() - self._started


def log_recall_table(loggers: Loggers, recall: ProposalRecall) -> None:
    """Recall by N and IoU threshold of the last validation; nothing where this process has not validated."""
    if not recall.update_called:
        return
    columns = ["N", *(f"IoU {threshold:.2f}" for threshold in THRESHOLDS.tolist())]
    rows = [[int(n), *map(float, row)] for n, row in zip(recall.budgets, recall.table(), strict=True)]
    loggers.log_table("recall_table", columns, rows)


def keep_ranks(record: RunRecord, recall: ProposalRecall, images: Sequence[Record]) -> dict[str, np.ndarray]:
    """Write recall.npz; its arrays (see `ProposalRecall.ranks`). `images`: those that were scored."""
    arrays = recall.ranks()
    record.write_recall(arrays, [images[int(row)].image_id for row in arrays["index"]])
    return arrays


def draw_recall(folder: Path, arrays: Mapping[str, np.ndarray], title: str) -> None:
    """figures/recall.png of a run: recall against N, from the ranks."""
    from anchorlab.plots.boxes import recall_figure, save  # matplotlib: not before the first step

    budgets = np.unique(np.geomspace(1, arrays["budgets"][-1], 60).astype(int))
    found = recall_from_ranks(arrays["rank"], arrays["counted"], budgets.tolist())[:, :, 0]
    curves = {
        "IoU 0.5": (budgets, found[:, AT_50]),
        "IoU 0.7": (budgets, found[:, AT_70]),
        "mean over IoU 0.5:0.95 (AR)": (budgets, found.mean(1)),
    }
    save(recall_figure(curves, title), folder / "figures" / "recall.png")
