"""evaluate.py: a run's own figures again, other data and sizes, mirrored images, what is left behind and refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb

from anchorlab.build import build
from anchorlab.commands import evaluate as evaluation
from anchorlab.commands.evaluate import evaluate
from anchorlab.comparing.scores import read_runs
from anchorlab.data.resize import resized
from anchorlab.errors import SettingError
from anchorlab.runs.record import read_run
from anchorlab.trained.load import load_trained
from anchorlab.trained.scoring import Scoring, mirrored, unmirrored
from tests.commands.conftest import CONFIGS, composed
from tests.training.wandb_server import WandbServer

QUICK = ("pictures=0", "outcome=0")


def evaluated(folder: Path, *overrides: str) -> list[evaluation.Evaluated]:
    return evaluate(composed("evaluate", *QUICK, *overrides), folder)


@pytest.fixture(scope="module")
def own(run, tmp_path_factory) -> tuple[evaluation.Evaluated, Path]:
    """The run on its own split, with everything that can be asked for."""
    folder = tmp_path_factory.mktemp("own")
    (found,) = evaluate(composed("evaluate", f"run={run}", "eval.check=true", "pictures=1", "outcome=3"), folder)
    return found, folder


def test_own_split_gives_the_run_s_figures_bit_for_bit(own, run):
    found, folder = own
    ours, theirs = read_run(folder), read_run(run)
    reached = {name: value for name, value in ours.final.items() if not name.startswith("oracle_")}
    assert reached == theirs.final  # with losses, epoch and step
    assert found.metrics["oracle_AR_10"] > found.metrics["AR_10"]
    assert (ours.config_hash, ours.anchor_hash, ours.status) == (theirs.config_hash, theirs.anchor_hash, "finished")
    before, after = theirs.recall(), ours.recall()
    assert before is not None
    assert after is not None
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


def test_exported_proposals_give_the_same_figures_in_pycocotools(own):
    found, folder = own
    assert found.difference is not None
    assert found.difference < 1e-9
    results = json.loads((folder / "proposals.json").read_text())
    assert {result["image_id"] for result in results} == {
        image["id"] for image in json.loads((folder / "truth.json").read_text())["images"]
    }
    # A proposal less is noticed: the comparison compares something.
    best = max(results, key=lambda result: result["score"])
    (folder / "proposals.json").write_text(json.dumps([best]))
    assert evaluation.largest_difference(folder, found.metrics, (10, 50, 100, 300, 1000)) > 0.01


def test_folder_is_that_of_a_training(own, run):
    _, folder = own
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.name != ".run.lock"}
    assert {"config.yaml", "run.json", "recall.npz", "proposals.npz", "anchors.json"} <= names
    assert {"figures/recall.png", "figures/proposals.png", "figures/funnel.png", "figures/attribution.png"} <= names
    assert len(read_runs([str(folder), str(run)])[0]) == 2


def test_evaluation_is_a_wandb_run_that_names_the_one_it_scores(run, tmp_path, monkeypatch):
    server = WandbServer()
    wandb.teardown()  # W&B remembers an address for the process
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    for limit in ("START_SECONDS", "FINISH_SECONDS"):  # on a machine with more to do than this
        monkeypatch.setattr(f"anchorlab.training.loggers.hub.{limit}", 120)
    evaluated(tmp_path, f"run={run}", "logger=wandb")
    server.stop()
    ours, theirs = read_run(tmp_path), read_run(run)
    assert list(server.runs) == [ours.id]
    assert server.run.about["jobType"] == "eval"
    assert server.run.config["evaluated"]["run"] == theirs.id
    assert server.run.config["config_hash"] == theirs.config_hash
    assert (server.run.summary["AR_100"], server.run.summary["epoch"]) == (theirs.final["AR_100"], 2)
    assert server.run.exit_code == 0


def test_other_sizes_and_the_best_checkpoint_are_other_results(run, tmp_path):
    found = evaluated(tmp_path, f"run={run}", "eval.size=[64,128]", "checkpoint=best", "eval.limit=4")
    assert [row.images for row in found] == [4, 4]
    hashes = {read_run(row.folder).config_hash for row in found} | {read_run(run).config_hash}
    assert len(hashes) == 3
    assert [read_run(row.folder).config["data"]["long"] for row in found] == [64, 128]
    assert len((tmp_path / "evaluation.csv").read_text().splitlines()) == 3
    assert all(row.own == {} for row in found)


def test_other_data_keeps_the_size_the_network_was_trained_with(run, real_data, tmp_path):
    bccd = ("data=voc", f"data.root={real_data / 'bccd/BCCD'}", "data.on_error=skip")
    (found,) = evaluated(tmp_path, f"run={run}", *bccd, "eval.limit=2", "eval.split=train")
    content = read_run(found.folder)
    assert content.config["data"]["long"] == 96
    assert (found.images, content.final["step"]) == (2, read_run(run).final["step"])


def test_other_proposals_need_no_training(run, tmp_path):
    """The run with NMS that drops next to nothing: more second tries; and with its own settings given once more."""
    (other,) = evaluated(tmp_path / "a", f"run={run}", "proposals=tiered", "proposals.tiers=[[1000,0.99]]")
    (same,) = evaluated(tmp_path / "b", f"run={run}", "proposals=default")
    first = read_run(run)
    assert read_run(other.folder).config["proposals"]["tiers"] == [[1000, 0.99]]
    assert read_run(other.folder).config_hash != first.config_hash
    assert (other.own, same.own) == ({}, first.final)
    assert other.metrics["AR_1000"] >= same.metrics["AR_1000"] == first.final["AR_1000"]
    assert other.metrics != same.metrics


@pytest.mark.parametrize(
    ("own_sides", "size", "expected"),
    [((None, 416), 600, (None, 600)), ((800, 1333), 400, (400, 666)), ((600, None), 300, (300, None))],
)
def test_size_replaces_the_side_that_rules(own_sides, size, expected):
    short, long = own_sides
    assert resized(short, long, size) == expected
    assert resized(short, long, None) == own_sides


def test_mirroring_twice_is_nothing_and_flipped_proposals_do_not_depend_on_the_side(run):
    trained = load_trained(run)
    data: Any = build(trained.config["data"], augment=None, seed=0)
    batch = next(iter(data.val_dataloader()))
    torch.testing.assert_close(mirrored(mirrored(batch)).images, batch.images, rtol=0, atol=0)
    assert not torch.equal(mirrored(batch).images, batch.images)

    module: Any = Scoring(trained.network, flip=True).eval()
    with torch.no_grad():
        ours = module.propose(module(batch), batch)
        other = module.propose(module(mirrored(batch)), mirrored(batch))
    for row, (here, there) in enumerate(zip(ours, other, strict=True)):
        back = unmirrored(there, int(batch.sizes[row, 1]))
        torch.testing.assert_close(here.scores, back.scores)
        # Found again by where they lie: scores that differ by a rounding may change places.
        far, twin = (here.boxes[:50, None] - back.boxes).abs().amax(dim=2).min(dim=1)
        assert far.max() < 1e-2
        assert len(twin.unique()) == len(twin)
        torch.testing.assert_close(here.scores[:50], back.scores[twin])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"head": {"_target_": "os.system"}}, "names os.system"),
        (
            {"anchor": {"_target_": "anchorlab.rpn.backbones.timm_fpn.timm.create_model"}},
            "which is no class of anchorlab",
        ),
        ({"data": {"_target_": "subprocess.run"}}, "names subprocess.run"),
    ],
)
def test_settings_in_a_checkpoint_run_no_code_of_others(change, sentence, run, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for group, keys in change.items():
        content["config"][group] = {**content["config"][group], **keys}
    torch.save(content, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(SettingError, match=sentence):
        evaluated(tmp_path / "out", f"run={tmp_path / 'checkpoints' / 'last.ckpt'}")


def test_what_is_no_network_is_one_sentence(run, tmp_path):
    for source, sentence in (
        (tmp_path / "nowhere", "names no trained network"),
        (run / "config.yaml", "is no checkpoint"),
        (tmp_path, "names no trained network"),
    ):
        with pytest.raises(SettingError, match=sentence):
            evaluated(tmp_path / "out", f"run={source}")
    shutil.copy(run / "run.json", tmp_path)
    with pytest.raises(SettingError, match="broke off before its first"):
        evaluated(tmp_path / "out", f"run={tmp_path}")


def test_command_says_figures_and_refuses_keys_without_effect(run, tmp_path):
    def command(*arguments: str) -> subprocess.CompletedProcess:
        line = [sys.executable, str(CONFIGS.with_name("evaluate.py")), f"run={run}", *QUICK, *arguments]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = command("hydra.run.dir=out")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("AR@N", "recall@N by IoU", "equal bit for bit", "folder"):
        assert words in done.stdout
    refused = command("data=synthetic", "data.long=64")
    assert refused.returncode == 2
    assert refused.stderr.strip().endswith("set eval.size instead")
    assert len(refused.stderr.strip().splitlines()) == 1
