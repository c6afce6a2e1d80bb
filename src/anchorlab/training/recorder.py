"""Keeps a run's folder up to date while it trains: figures and match ranks after every validation, and how it ended."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from anchorlab.ranks import AT_50, AT_70, THRESHOLDS, recall_from_ranks
from anchorlab.runs.loggers import CSVLogger, WandbLogger
from anchorlab.runs.record import RunRecord
from anchorlab.training.module import RPNModule
from anchorlab.training.pictures import recall_figure, save

MONITORED = "AR_100"
"""The figure the best checkpoint is chosen by."""


class Recorder(Callback):
    """Writes through a RunRecord, on the first process only; puts the config into every checkpoint."""

    def __init__(self, record: RunRecord, config: Mapping[str, Any]) -> None:
        self.record = record
        self.config = dict(config)
        self._started = time.perf_counter()
        self._images = 0
        self._training = 0.0  # seconds, waiting for data included
        self._clock = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.cut_back(trainer.global_step)

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
        figures = {
            name.removeprefix("val/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        # During a fit, an epoch counts as done only after its validation.
        epoch = trainer.current_epoch + int(trainer.state.fn == "fit")
        figures |= {"epoch": epoch, "step": trainer.global_step}
        best = self.record.content["figures"]["best"].get(MONITORED, -np.inf)
        self.record.add(
            final=figures,
            best=figures if figures[MONITORED] > best else None,
            timings={
                "fit_s": round(time.perf_counter() - self._started, 2),
                "train_s": round(self._training, 2),
                "train_images_per_s": round(self._images / max(self._training, 1e-9), 2),
            },
        )
        self._keep_ranks(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RPNModule)
        recall = pl_module.recall
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                logger.log_recall_table(recall.table(), recall.budgets, THRESHOLDS.tolist())

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config  # plain containers: the file loads with weights_only=True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero:
            self.record.fail(reason(exception))

    def _keep_ranks(self, trainer: Trainer, module: RPNModule) -> None:
        """recall.npz, and the curve of recall against N that follows from it."""
        arrays = module.recall.ranks()
        records = trainer.datamodule.val_records  # pyright: ignore[reportAttributeAccessIssue]
        self.record.write_recall(arrays, [records[int(row)].image_id for row in arrays["index"]])
        budgets = np.unique(np.geomspace(1, module.recall.budgets[-1], 60).astype(int))
        recall = recall_from_ranks(arrays["rank"], arrays["counted"], budgets.tolist())[:, :, 0]
        curves = {
            "IoU 0.5": (budgets, recall[:, AT_50]),
            "IoU 0.7": (budgets, recall[:, AT_70]),
            "mean over IoU 0.5:0.95 (AR)": (budgets, recall.mean(1)),
        }
        figure = recall_figure(curves, f"{len(records)} validation images, epoch {trainer.current_epoch + 1}")
        save(figure, self.record.folder / "figures" / "recall.png")


def reason(exception: BaseException) -> str:
    """One line: an exception of a worker process carries its traceback in the message, the cause comes last."""
    lines = [line.strip() for line in str(exception).splitlines() if line.strip()]
    return lines[-1] if lines else type(exception).__name__
