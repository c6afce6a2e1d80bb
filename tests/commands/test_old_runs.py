"""Runs and an exported model from before classes moved: every command reads them (tests/old_runs/README.md)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import anchorlab
from anchorlab.runs.record import read_run
from tests.training.processes import Forker

ROOT = Path(__file__).parents[2]
OLD_RUNS = ROOT / "tests" / "old_runs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Copies of the runs, which the commands write beside and into, and one image."""
    folder = shutil.copytree(OLD_RUNS, tmp_path_factory.mktemp("old") / "runs")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    return folder


@pytest.fixture(scope="module")
def command(folder: Path, forker: Forker) -> Callable[..., None]:
    """Runs a root script in the folder, as a process of its own; it succeeds."""

    def run(script: str, *arguments: str) -> None:
        done = forker.run(folder, *arguments, script=script)
        assert done.code == 0, done.out + done.err

    return run


@pytest.fixture(scope="module")
def exported(command, folder) -> Path:
    """The exported model: its model.json is the old one, its weights those of the run, which are exported today."""
    command("export", "run=stopped", "formats=[safetensors]", "output=new")
    shutil.copy(OLD_RUNS / "exported" / "model.json", folder / "new" / "model.json")
    return folder / "new"


def test_compare(command, folder):
    command("compare", "runs=[stopped,finished]", "output=comparison")
    table = (folder / "comparison" / "comparison.csv").read_text(encoding="utf-8")
    assert all(f"runs/{name}," in table for name in ("stopped", "finished"))


def test_evaluate_repeats_the_metrics_of_a_run(command, folder):
    command("evaluate", "run=stopped", "pictures=0", "outcome=0", "device=cpu", "hydra.run.dir=evaluated")
    before, after = read_run(folder / "stopped").recall(), read_run(folder / "evaluated").recall()
    assert before is not None
    assert after is not None
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


def test_propose(command, folder):
    command("propose", "run=stopped", "source=image.png", "pictures=0", "workers=0", "device=cpu")
    assert json.loads((folder / "proposals" / "proposals.json").read_text())


def test_explain(command, folder):
    command("explain", "run=stopped", "image=image.png")
    assert list((folder / "explain").glob("*.png"))


def test_exported_model_is_the_network_of_the_run(exported, folder):
    ours, theirs = anchorlab.load(exported).state_dict(), anchorlab.load(folder / "stopped").state_dict()
    assert ours.keys() == theirs.keys()
    assert all(value.equal(theirs[name]) for name, value in ours.items())


def test_train_resumes(command, folder):
    shutil.copytree(OLD_RUNS / "stopped", folder / "resumed")
    command("train", "resume=resumed", "callbacks.stop_after.epochs=null")
    run = read_run(folder / "resumed")
    assert (run.status, run.final["epoch"]) == ("finished", 2)
    assert run.config_hash == read_run(OLD_RUNS / "stopped").config_hash
