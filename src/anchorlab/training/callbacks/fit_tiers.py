"""Callback that finds the thresholds of `proposals=fit` before two validations, and keeps them with the run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from anchorlab.analysis.tiers import Image, best_thresholds
from anchorlab.console import tell, typed
from anchorlab.data.module import DataModule
from anchorlab.rpn.network import as_pairs
from anchorlab.rpn.proposals.tiered_nms import FittedTieredNMSSelector
from anchorlab.training.callbacks.early_stopping import stopped_early
from anchorlab.training.callbacks.pictures import predict
from anchorlab.training.callbacks.recorder import Recorder
from anchorlab.training.module import RPNModule


class FitTiers(Callback):
    """Finds them before the first validation and, with the weights of the end, before the last.

    On the first process, for all; the run's config and its checkpoints have those that the last validation had. In
    between they stay: a search takes 20 to 30 s of a CPU's core.

    A run that stops early ends with those of its first validation, and says so.

    Stands behind what swaps weights for a validation.

    Args:
        recorder: the run's, which puts the config into checkpoints.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._found_at: int | None = None  # optimizer step

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RPNModule)
        selector = pl_module.network.selector
        if not isinstance(selector, FittedTieredNMSSelector) or (selector.is_fitted and not _ends(trainer, pl_module)):
            return
        data: DataModule = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        found = thresholds_on(pl_module, data) if trainer.is_global_zero else None
        selector.fit(trainer.strategy.broadcast(found))  # pyright: ignore[reportArgumentType]
        self._found_at = trainer.global_step
        self._recorder.config = with_thresholds(self._recorder.config, selector)
        if trainer.is_global_zero:
            self._recorder.record.write_config(self._recorder.config)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RPNModule)
        selector = pl_module.network.selector
        if not isinstance(selector, FittedTieredNMSSelector) or not selector.is_fitted or not trainer.is_global_zero:
            return
        tell(f"IoU between proposals at most, found on training images: {in_words(selector)}")
        if stopped_early(trainer.callbacks) and self._found_at != trainer.global_step:  # pyright: ignore[reportAttributeAccessIssue]
            run = typed(self._recorder.record.folder)
            tell(f"found at the first validation; with the weights of the end: evaluate.py run={run} proposals=fit")


def _ends(trainer: Trainer, module: RPNModule) -> bool:
    """Whether this validation is the last of the run's schedule; a run may stop sooner."""
    no_more_steps = module.max_steps is not None and trainer.global_step >= module.max_steps
    return trainer.state.fn != "fit" or no_more_steps or trainer.current_epoch + 1 == trainer.max_epochs


def thresholds_on(module: RPNModule, data: DataModule) -> list[float]:
    """The best thresholds of the module's selector on training images."""
    selector = module.network.selector
    assert isinstance(selector, FittedTieredNMSSelector)
    images = []
    for batch in data.few("train", selector.images):
        predictions = predict(module, batch)
        (size,) = as_pairs(batch.sizes)
        candidates = module.network.candidates(predictions, 0, size)[-1]
        objects, ignore = batch.all_boxes.cpu().numpy().astype(np.float64), batch.all_ignore.cpu().numpy()
        images.append(Image(size, candidates, objects, ignore))
    return best_thresholds(images, selector)


def in_words(selector: FittedTieredNMSSelector) -> str:
    """`0.7 for the first 20, 0.9 until 70, ...`."""
    (first, iou), *others = selector.tiers
    return ", ".join([f"{iou:g} for the first {first}", *(f"{iou:g} until {count:,}" for count, iou in others)])


def with_thresholds(config: Mapping[str, Any], selector: FittedTieredNMSSelector) -> dict[str, Any]:
    """The config with the selector's thresholds."""
    return {**config, "proposals": {**config["proposals"], "thresholds": [iou for _, iou in selector.tiers]}}
