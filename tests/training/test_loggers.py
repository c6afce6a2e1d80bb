"""The loggers in real use: a real Trainer, and real offline W&B runs read back with W&B's own reader."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from anchorlab.runs.metrics import read_metrics
from anchorlab.training.loggers.csv import CSVLogger
from anchorlab.training.loggers.wandb import WandbLogger

STEPS = 3


class Toy(LightningModule):
    """Logs what an RPN would: a loss each step, recall after each epoch."""

    def __init__(self, break_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.break_at = break_at

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.global_step == self.break_at:
            raise FloatingPointError("the loss is not finite")
        loss = (self.weight * batch).sum()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None: ...

    def on_validation_epoch_end(self) -> None:
        rising_then_falling = [0.25, 0.75, 0.5][self.current_epoch]
        self.log_dict({"val/AR_100": rising_then_falling, "val/recall_10": 0.125 * self.current_epoch})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, logger: Logger, module: Toy, epochs: int = 3) -> None:
    batches = DataLoader(torch.ones(STEPS), batch_size=1)  # type: ignore[arg-type]
    checkpoints = ModelCheckpoint(folder / "checkpoints", filename="best", monitor="val/AR_100", mode="max")
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=logger,
        callbacks=[checkpoints],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, batches, batches)


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path_factory):
    """A machine without credentials, whatever this one has."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    yield
    if "WANDB_API_KEY" in os.environ:
        wandb.teardown()  # W&B remembers a key for the process


def offline(folder: Path, **arguments: Any) -> WandbLogger:
    return WandbLogger("offline", save_dir=folder, **arguments)


def runs_in(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


def summary_page(folder: Path) -> dict:
    (run,) = runs_in(folder)
    return inspect(run, "--summary")[0]


def history(folder: Path) -> list[dict]:
    (run,) = runs_in(folder)
    return [record["history"]["item"] for record in inspect(run) if record["type"] == "history"]


def inspect(run: Path, *options: str) -> list[dict]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(run)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(text)] if options else [json.loads(line) for line in text.splitlines()]


def test_csv_holds_every_figure_of_a_fit(tmp_path):
    fit(tmp_path, CSVLogger(tmp_path), Toy())
    curves = read_metrics(tmp_path / "metrics.csv")
    trained = ~np.isnan(curves["train/loss"])
    assert curves["step"][trained].tolist() == list(range(3 * STEPS))
    validated = ~np.isnan(curves["val/AR_100"])
    assert curves["val/AR_100"][validated].tolist() == [0.25, 0.75, 0.5]
    assert curves["step"][validated].tolist() == [2, 5, 8]
    assert curves["epoch"][validated].tolist() == [0, 1, 2]


def test_csv_is_cut_back_to_the_checkpoint_of_an_epoch(tmp_path):
    fit(tmp_path, CSVLogger(tmp_path), Toy())
    CSVLogger(tmp_path).cut_back(2 * STEPS)  # the global step of the checkpoint after the second epoch
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["val/AR_100"] for row in rows if row["val/AR_100"]] == ["0.25", "0.75"]
    assert max(int(row["step"]) for row in rows) == 2 * STEPS - 1


def test_an_offline_run_holds_config_curves_and_summaries(tmp_path):
    logger = offline(tmp_path, project="rpn", group="k", job_type="sweep", tags=["tall"], name="k=3")
    logger.log_hyperparams({"anchor": {"ratios": [0.5, 1, 2]}, "k": 3})
    fit(tmp_path, logger, Toy())
    logger.finish()
    page, rows = summary_page(tmp_path), history(tmp_path)
    assert (page["project"], page["name"], page["tags"], page["state"]) == (
        "rpn",
        "k=3",
        ["tall"],
        "finished",
    )
    assert page["config"] == {"anchor": {"ratios": [0.5, 1, 2]}, "k": 3}
    summary = page["summary"]
    assert (summary["AR_100"], summary["recall_10"], summary["best_AR_100"]) == (0.5, 0.25, 0.75)
    assert next(row["train/loss"] for row in rows if "train/loss" in row) == 1.0
    assert [(row["epoch"], row["val/AR_100"]) for row in rows if "val/AR_100" in row] == [
        (0, 0.25),
        (1, 0.75),
        (2, 0.5),
    ]


def test_an_offline_run_says_what_its_curves_are_drawn_over_and_belongs_to_its_group(tmp_path):
    logger = offline(tmp_path, group="k", job_type="sweep")
    logger.log_metrics({"val/AR_100": 0.5, "epoch": 0}, 2)
    logger.finish()
    (run,) = runs_in(tmp_path)
    records = inspect(run)
    begun = next(record["run"] for record in records if record["type"] == "run")
    assert (begun["run_group"], begun["job_type"]) == ("k", "sweep")
    axes = [record["metric"] for record in records if record["type"] == "metric"]
    assert {axis["glob_name"]: axis["step_metric"] for axis in axes if "glob_name" in axis} == {
        "*": "trainer/global_step",
        "val/*": "epoch",
    }


def test_boxes_and_the_recall_table_are_read_back(tmp_path):
    logger = offline(tmp_path)
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    proposals = np.array([[1, 2, 30, 12], [0, 0, 40, 20]], dtype=np.float32)
    logger.log_boxes("val/image_a b.c", image, proposals, np.array([0.75, 0.5]), np.array([[1, 2, 31, 13.5]]), step=4)
    logger.log_recall_table(np.array([[0.5, 0.25], [1.0, 0.5]]), [10, 100], [0.5, 0.55])
    logger.finish()
    page = summary_page(tmp_path)
    files = runs_in(tmp_path)[0] / "files"
    picture = page["summary"]["val/image_a_b_c"]
    assert (picture["width"], picture["height"]) == (40, 20)
    assert (files / picture["path"]).is_file()
    found = json.loads((files / picture["boxes"]["predictions"]["path"]).read_text())["box_data"]
    assert found[0]["position"] == {"minX": 1.0, "minY": 2.0, "maxX": 30.0, "maxY": 12.0}
    assert [box["scores"]["score"] for box in found] == [0.75, 0.5]
    truth = json.loads((files / picture["boxes"]["ground_truth"]["path"]).read_text())["box_data"]
    assert truth[0]["position"]["maxY"] == 13.5
    table = json.loads((files / page["summary"]["recall_table"]["path"]).read_text())
    assert table["columns"] == ["N", "IoU 0.50", "IoU 0.55"]
    assert table["data"] == [[10, 0.5, 0.25], [100, 1.0, 0.5]]


def test_a_picture_without_proposals_and_boxes_is_logged(tmp_path):
    logger = offline(tmp_path)
    logger.log_boxes("val/image_1", np.zeros((4, 8, 3), np.uint8), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 4)))
    logger.finish()
    assert summary_page(tmp_path)["summary"]["val/image_1"]["width"] == 8


def test_media_off_keeps_pictures_at_home(tmp_path):
    logger = offline(tmp_path, media=False)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.log_boxes("val/image_1", np.zeros((4, 8, 3), np.uint8), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 4)))
    logger.finish()
    assert "val/image_1" not in summary_page(tmp_path)["summary"]
    assert list(tmp_path.rglob("*.png")) == []


def test_a_checkpoint_becomes_an_artifact_if_asked(tmp_path):
    logger = offline(tmp_path, checkpoint=True)
    fit(tmp_path, logger, Toy(), epochs=1)
    logger.finish()
    artifacts = [record["artifact"] for record in inspect(runs_in(tmp_path)[0]) if record["type"] == "artifact"]
    assert [artifact["type"] for artifact in artifacts] == ["model"]


def test_a_fit_that_fails_finishes_its_run_as_failed(tmp_path):
    with pytest.raises(FloatingPointError):
        fit(tmp_path, offline(tmp_path), Toy(break_at=2))
    assert wandb.run is None
    page, rows = summary_page(tmp_path), history(tmp_path)
    assert page["exit_code"] == 1
    assert sum("train/loss" in row for row in rows) == 2


def test_a_second_job_in_the_process_is_a_second_run(tmp_path):
    first, second = offline(tmp_path / "0"), offline(tmp_path / "1")
    first.log_metrics({"val/AR_100": 0.75}, 0)
    second.log_metrics({"val/AR_100": 0.25}, 0)
    second.finish()
    first.finish()
    assert first.version != second.version
    assert summary_page(tmp_path / "0")["summary"]["best_AR_100"] == 0.75
    assert summary_page(tmp_path / "1")["summary"]["best_AR_100"] == 0.25


def test_a_resumed_run_keeps_its_id_and_its_best(tmp_path):
    logger = offline(tmp_path, run_id="abcd1234", best=0.75)
    logger.log_metrics({"val/AR_100": 0.5}, 0)
    logger.finish()
    page = summary_page(tmp_path)
    assert (page["run_id"], page["summary"]["AR_100"], page["summary"]["best_AR_100"]) == (
        "abcd1234",
        0.5,
        0.75,
    )


def test_without_credentials_auto_is_offline_quiet_and_says_how_to_upload(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = WandbLogger(save_dir=tmp_path / "2026-11-22" / "10-00-00")
    notice = logger.notice
    logger.finish()
    (run,) = runs_in(tmp_path / "2026-11-22" / "10-00-00")
    assert notice == f"offline (no credentials found); upload later with: wandb sync {run.relative_to(tmp_path)}"
    assert inspect(run, "--summary")[0]["name"] == "2026-11-22/10-00-00"
    assert capfd.readouterr() == ("", "")


def test_a_server_that_does_not_answer_means_offline(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("anchorlab.training.loggers.wandb.INIT_SECONDS", 1)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:9")
    logger = WandbLogger(save_dir=tmp_path)
    notice = logger.notice
    logger.log_metrics({"val/AR_100": 0.5}, 0)
    logger.finish()
    assert notice.startswith("offline (")
    assert "\n" not in notice
    assert summary_page(tmp_path)["summary"]["AR_100"] == 0.5
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("asked", "begins"), [("offline", "offline (WANDB_MODE"), ("disabled", "disabled (")])
def test_the_environment_goes_before_auto(tmp_path, monkeypatch, asked, begins):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_MODE", asked)
    logger = WandbLogger(save_dir=tmp_path)
    assert logger.notice.startswith(begins)
    logger.log_metrics({"val/AR_100": 0.5}, 0)
    logger.finish()


def test_credentials_of_wandb_login_are_found(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {'a' * 40}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    started = []
    stand_in = SimpleNamespace(url="https://wandb.ai/me/run", define_metric=lambda *_, **__: None)
    monkeypatch.setattr(wandb, "init", lambda **arguments: started.append(arguments) or stand_in)
    assert WandbLogger(save_dir=tmp_path).notice == "online: https://wandb.ai/me/run"
    assert started[0]["mode"] == "online"


def test_online_without_credentials_and_an_unknown_mode_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"logger\.mode=online finds no credentials"):
        _ = WandbLogger("online", save_dir=tmp_path).experiment
    with pytest.raises(ValueError, match=r"logger\.mode=later"):
        WandbLogger("later", save_dir=tmp_path)  # type: ignore[arg-type]


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    boxes = np.zeros((0, 4))
    for logger in (CSVLogger(tmp_path / "run"), offline(tmp_path / "run")):
        logger.log_hyperparams({"k": 3})
        logger.log_metrics({"val/AR_100": 0.5}, 0)
        logger.finalize("failed")
    logger = offline(tmp_path / "run")
    logger.log_boxes("val/image_1", np.zeros((4, 8, 3), np.uint8), boxes, np.zeros(0), boxes)
    logger.finish()
    assert logger.notice == ""
    assert not (tmp_path / "run").exists()
