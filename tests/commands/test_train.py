"""train.py as a person starts it: what a run says, what it leaves behind, and that it can be repeated and resumed."""

import csv
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from anchorlab.metrics.from_ranks import metrics_from_ranks
from tests.training.conftest import command


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def curves(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    timed = ("train/images_per_s", "train/data_wait")
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def test_run_says_what_happens_and_leaves_its_folder(small, train, tmp_path):
    done = train(*small, "callbacks.pictures.images=2", "anchor.ratios=[0.5,1,2]", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    cpuinfo = Path("/proc/cpuinfo")
    has_bf16 = cpuinfo.exists() and re.search(r"\b(amx|avx512)_bf16\b", cpuinfo.read_text()) is not None
    precision, shown = ("bf16", "cpu, bf16") if has_bf16 else (32, "cpu, float32")
    at_the_start = ("12 images", "7 images", "k = 3", "Tiny", shown, "2 epochs, 6 steps")
    for words in (*at_the_start, "epoch 2/2", "recall@N", "pictures", "next"):
        assert words in done.stdout
    assert done.stderr == ""

    folder = tmp_path / "run"
    content = record(folder)
    assert content["status"] == "finished"
    coverage = {name: content["axes"].pop(name) for name in ("coverage", "possible_recall_50", "positives_per_image")}
    assert 0 < coverage["coverage"] <= coverage["possible_recall_50"] <= 1 < coverage["positives_per_image"]
    assert content["axes"] == {
        "k": 3,
        "smallest_size": 32,
        "largest_size": 128,
        "ratio_span": 4,
        "anchors_per_image": 3 * (8 * 12 + 4 * 6 + 2 * 3),
    }
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert kept["trainer"]["precision"] == precision  # "auto" is decided
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "anchors.png",
        "attribution.png",
        "coverage.png",
        "funnel.png",
        "recall.png",
        "proposals_epoch_001.png",
        "proposals_epoch_002.png",
    }
    anchors = json.loads((folder / "anchors.json").read_text())
    assert (anchors["images"], len(anchors["shapes"])) == (7, 9)
    with np.load(folder / "recall.npz") as saved:
        figures = metrics_from_ranks(saved["rank"], saved["counted"], saved["budgets"])
        assert len(saved["image_ids"]) == 7
    final = content["figures"]["final"]
    assert {name: final[name] for name in figures} == figures
    assert content["figures"]["best"]["AR_100"] >= final["AR_100"]
    header = set(curves(folder)[0])
    assert {"step", "epoch", "val/recall_100", "val/AR_s_100", "val/loss", "train/box", "train/positives"} <= header


def test_report_on_anchors_has_the_ar_of_the_validation(small, train, tmp_path):
    """In float32: bf16 rounds by what shares a batch, and the report looks at one image at a time."""
    done = train(*small, "trainer.precision=32", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    anchors = json.loads((tmp_path / "run" / "anchors.json").read_text())
    assert anchors["AR"] == pytest.approx(record(tmp_path / "run")["figures"]["final"]["AR_100"], abs=1e-9)


@pytest.mark.long
def test_same_seed_gives_the_same_run_and_another_seed_another(small, train, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert train(*small, f"seed={seed}", f"hydra.run.dir={name}").returncode == 0
    a, b, c = (curves(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c
    for key, value in weights(tmp_path / "a").items():
        assert torch.equal(value, weights(tmp_path / "b")[key])


def kill_after(line: str, arguments: list[str], cwd: Path) -> None:
    """Start a run and end it with SIGKILL as soon as it has printed `line`."""
    with subprocess.Popen(arguments, cwd=cwd, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line in printed for printed in process.stdout)
        process.kill()


@pytest.mark.long
@pytest.mark.parametrize("callbacks", ["default", "ema"])
def test_killed_run_resumes_to_the_same_end(callbacks, small, train, tmp_path):
    settings = (*small, "trainer.epochs=3", "augment=strong", f"callbacks={callbacks}")
    assert train(*settings, "hydra.run.dir=whole").returncode == 0
    kill_after("epoch 2/3", command(*settings, "hydra.run.dir=broken"), tmp_path)
    assert record(tmp_path / "broken")["status"] == "running"

    resumed = train("resume=broken")
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 3/3" in resumed.stdout
    assert "epoch 1/3" not in resumed.stdout
    assert curves(tmp_path / "broken") == curves(tmp_path / "whole")
    for key, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "broken")[key]), key
    ours, theirs = record(tmp_path / "broken"), record(tmp_path / "whole")
    assert ours["figures"] == theirs["figures"]
    assert (ours["status"], ours["resumed"], ours["config_hash"]) == ("finished", 1, theirs["config_hash"])


@pytest.mark.long
def test_resuming_refuses_another_experiment_and_a_finished_run(small, train, tmp_path):
    kill_after("epoch 2/3", command(*small, "trainer.epochs=3", "hydra.run.dir=broken"), tmp_path)
    other = train("resume=broken", "anchor.ratios=[1]")
    assert other.returncode == 2
    assert "another experiment" in other.stderr
    assert train("resume=broken", "data.workers=1").returncode == 0
    finished = train("resume=broken")
    assert finished.returncode == 2
    assert "resume=broken is finished" in finished.stderr
    nowhere = train("resume=nowhere")
    assert nowhere.returncode == 2
    assert "nowhere" in nowhere.stderr


def test_non_finite_loss_stops_with_images_and_figures(small, train, tmp_path):
    done = train(*small, "optimizer.lr=1e30", "trainer.gradient_clip=null", "scheduler=constant", "hydra.run.dir=run")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for words in ("the loss is not finite at step", "objectness", "images", "optimizer.lr"):
        assert words in done.stderr
    content = record(tmp_path / "run")
    assert content["status"] == "failed"
    assert "not finite" in content["reason"]


def test_look_writes_a_sheet_and_trains_nothing(small, train, tmp_path):
    done = train(*small, "debug=look", "augment=strong", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "run").rglob("*.*")] == ["look.png"]


def test_last_step_is_scored_wherever_it_falls(small, train, tmp_path):
    # One step into the second epoch of three steps, of which none is a tenth one.
    done = train(*small, "trainer.max_steps=4", "trainer.log_every=10", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert record(tmp_path / "run")["figures"]["final"]["step"] == 4
    assert [float(row["step"]) for row in curves(tmp_path / "run") if row["train/loss"]] == [2, 3]  # counted from 0


@pytest.mark.long
def test_network_overfits_eight_images(small, train, tmp_path):
    settings = ("debug=overfit", "trainer.epochs=150", "anchor.scales_per_octave=2", "optimizer.lr=0.003")
    done = train(*small, *settings, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert record(tmp_path / "run")["figures"]["final"]["recall_100"] > 0.9


@pytest.mark.long
def test_data_errors_name_what_is_wrong(train, tmp_path, real_data):
    arguments = ("data=voc", f"data.root={real_data / 'bccd/BCCD'}", "debug=one_step", "hydra.run.dir=run")
    refused = train(*arguments)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    for words in ("2 problems", "data.on_error=skip", "BloodImage_00343", "BloodImage_00338", "zero-area"):
        assert words in refused.stderr
    assert record(tmp_path / "run")["status"] == "failed"

    skipped = train(*arguments, "data.on_error=skip", "data.long=96", "hydra.run.dir=skipped")
    assert skipped.returncode == 0, skipped.stderr
    assert len((tmp_path / "skipped" / "problems.txt").read_text().splitlines()) == 2


def test_wandb_run_of_a_training_holds_everything(small, train, tmp_path):
    arguments = ("logger=wandb", "logger.group=study", "logger.tags=[a,b]", "callbacks.pictures.images=1")
    done = train(*small, *arguments, "hydra.run.dir=run", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wandb sync") == 2  # at the start and at the end

    (run,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    inspect = ["python", "-m", "wandb", "leet", "inspect", "--json", str(run)]
    read = subprocess.run([command()[0], *inspect[1:]], capture_output=True, text=True, check=True).stdout
    figures = ("recall_table", "best_AR_100", "val/AR_1000", "val/image_")
    axes = ("anchors_per_image", "ratio_span", "possible_recall_50")
    for words in (*figures, *axes, "anchors/funnel", "anchors/attribution", "study"):
        assert words in read, words
    assert "WARNING" not in done.stdout + done.stderr


@pytest.mark.long
def test_ema_is_what_is_validated_and_kept(small, train, tmp_path):
    for name, callbacks in (("plain", "default"), ("ema", "ema")):
        assert train(*small, f"callbacks={callbacks}", f"hydra.run.dir={name}").returncode == 0
    saved = torch.load(tmp_path / "ema" / "checkpoints" / "last.ckpt", weights_only=True)
    current, average, plain = saved["current_model_state"], saved["state_dict"], weights(tmp_path / "plain")
    key = "network.head.scores.3.weight"
    assert torch.equal(current[key], plain[key])
    assert not torch.equal(average[key], plain[key])


@pytest.mark.long
def test_an_epoch_without_validation_repeats_no_figures(small, train, tmp_path):
    done = train(*small, "trainer.epochs=3", "trainer.val_every=2", "hydra.run.dir=run")
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("epoch ")}
    assert ["recall@100" in lines[f"{epoch}/3"] for epoch in (1, 2)] == [False, True], done.stdout


@pytest.mark.long
def test_a_run_that_is_validated_only_after_its_last_step_logs_that_validation(small, train, tmp_path):
    arguments = ("trainer.epochs=1", "trainer.val_every=3", "logger=wandb", "hydra.run.dir=run")
    done = train(*small, *arguments, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert "before the" not in done.stderr  # torchmetrics, of a metric that has seen nothing
    (table,) = (tmp_path / "run" / "wandb").rglob("recall_table*.table.json")
    found = {row[0]: row[1] for row in json.loads(table.read_text())["data"]}
    final = record(tmp_path / "run")["figures"]["final"]
    assert found == {n: pytest.approx(final[f"recall_{n}"]) for n in found}
    assert found[1000] > 0


@pytest.mark.long
def test_a_start_downloads_no_weights_that_it_replaces(small, train, tmp_path):
    """`backbone.weights` is ImageNet by default, and a machine that got the detector as a file may have no network."""
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    torch.save(FasterRCNN(body, num_classes=2).state_dict(), tmp_path / "detector.pth")
    arguments = [word for word in small if not word.startswith("backbone.")]
    arguments += ["start=detector.pth", "backbone=resnet18_fpn", "anchor=torchvision", "anchor.sizes=[8,16,32,64,128]"]
    offline = {"TORCH_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    done = train(*arguments, "debug=one_step", "callbacks.outcome.images=0", "hydra.run.dir=run", **offline)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "8 x 8 from 32 x 32" in said
    assert "resnet18, weights of start;" in said
