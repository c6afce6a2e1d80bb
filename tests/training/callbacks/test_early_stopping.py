"""A run that ends by itself: when, why, and that a resumed one ends there, too."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from anchorlab.config.identity import config_hash
from anchorlab.signatures import ArgumentError
from anchorlab.training import EarlyStopping
from anchorlab.training.callbacks.early_stopping import stopped_early

SCORES = (0.1, 0.3, 0.25, 0.3, 0.9)


class Scored(LightningModule):
    """Its validation after epoch i is SCORES[i]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, index):
        return self.weight.sum()

    def validation_step(self, batch, index):
        self.log("val/AR_100", SCORES[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(callback: EarlyStopping, folder: Path, resume: Path | None = None) -> Trainer:
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=len(SCORES),
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    loader = DataLoader([torch.zeros(1)], num_workers=0)  # pyright: ignore[reportArgumentType]
    trainer.fit(Scored(), loader, loader, ckpt_path=resume, weights_only=True)
    return trainer


def test_it_ends_after_so_many_validations_without_improvement(tmp_path):
    trainer = fit(first := EarlyStopping(patience=2), tmp_path)
    assert trainer.current_epoch == 4
    why = "stopped early, as AR_100 has not improved on 0.300 for 2 validations"
    assert stopped_early([first]) == why
    trainer.save_checkpoint(tmp_path / "killed.ckpt")
    assert fit(again := EarlyStopping(patience=2), tmp_path, tmp_path / "killed.ckpt").current_epoch == 4
    assert again.why == why


def test_it_lets_a_run_that_improves_come_to_its_end(tmp_path):
    trainer = fit(patient := EarlyStopping(patience=3), tmp_path)
    assert (trainer.current_epoch, stopped_early([patient])) == (5, None)


def test_a_metric_that_no_validation_has_is_named():
    with pytest.raises(ArgumentError, match="metric=AR is not possible: it must be loss or a metric"):
        EarlyStopping("AR")


def test_it_counts_in_the_identity_of_a_run():
    node = {"_target_": "anchorlab.training.EarlyStopping", "patience": 5}
    assert config_hash({"callbacks": {"early_stopping": node}}) != config_hash({"callbacks": {}})
