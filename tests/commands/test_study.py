"""study.py as a person starts it: what it says, what it leaves behind, what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from anchorlab.cli.study_arguments import unfold
from anchorlab.errors import SettingError
from anchorlab.plots.coverage import knee
from anchorlab.runs.files import FolderLock

ROOT = Path(__file__).parents[2]
SMALL = (
    "data.reader.num_train=12",
    "data.reader.num_val=7",
    "data.reader.image_size=[64,96]",
    "data.reader.sizes=[12,40]",
    "data.reader.boxes_per_image=[1,3]",
    "data.long=96",
    "backbone.channels=32",
)


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> tuple[str, ...]:
    """Overrides for a study of seconds; its data is drawn once for all tests."""
    return (*SMALL, f"data.root={tmp_path_factory.mktemp('synthetic')}")


def study(folder: Path, *arguments: str, script: str = "study.py") -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("typed", "composed"),
    [
        (["data=voc"], ["data=voc"]),
        (["fit=true"], ["fit=true", "anchor=fit"]),
        (["fit=true", "anchor.k=3,6,9"], ["fit=true", "ks=[3,6,9]", "anchor=fit"]),
        (["anchor=fit", "anchor.k=6"], ["anchor=fit", "anchor.k=6"]),
        (["anchor.k=6"], ["anchor.k=6"]),
        (
            ["probe=true", "anchor.scale=2,4", "data.root=~/a b", "anchor.ratios=[1]"],
            [
                *("probe=true", "data.root=~/a b", "anchor.ratios=[1]"),
                "candidates=[['anchor.scale=2'],['anchor.scale=4']]",
            ],
        ),
        (
            ["probe=true", "candidates=[[anchor=fit],[anchor.k=1]]"],
            ["probe=true", "candidates=[[anchor=fit],[anchor.k=1]]"],
        ),
        (
            ["probe=true", "data.root=x"],
            [
                *("probe=true", "data.root=x"),
                "candidates=[['anchor=default'],['anchor=default','anchor.ratios=[1]'],['anchor=fit','anchor.k=1'],"
                "['anchor=fit','anchor.k=3']]",
            ],
        ),
        (
            ["probe=true", "anchor=fpn", "anchor.scale=2"],
            [
                "probe=true",
                "candidates=[['anchor=fpn','anchor.scale=2'],['anchor=default'],['anchor=default','anchor.ratios=[1]'],"
                "['anchor=fit','anchor.k=1'],['anchor=fit','anchor.k=3']]",
            ],
        ),
        (
            ["anchor=fit,fpn", "anchor.k=1,3", "probe=true"],
            [
                "probe=true",
                "candidates=[['anchor=fit','anchor.k=1'],['anchor=fit','anchor.k=3'],"
                "['anchor=fpn','anchor.k=1'],['anchor=fpn','anchor.k=3']]",
            ],
        ),
    ],
)
def test_arguments_are_unfolded(typed, composed):
    assert unfold(typed) == composed


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["-m", "fit=true", "anchor.k=3,6"], "without -m"),
        (["-m", "probe=true", "anchor.scale=2,4"], "without -m: .* probe=true"),
        (["probe=true", "fit=true", "anchor.k=3,6"], "fit=true beside probe=true: leave it out"),
        (["probe=true", "anchor.scale=choice(2)"], "probe=true compares anchors: give a setting several values"),
        (["anchor.k=3,6"], "add fit=true"),
        (["fit=true", "anchor=fpn"], "leave out anchor=fpn"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(typed, words):
    with pytest.raises(SettingError, match=words):
        unfold(typed)


def test_knee_is_where_a_curve_bends():
    assert knee({1: 0.1, 3: 0.6, 5: 0.65, 9: 0.7}) == 3
    assert knee({3: 0.5, 6: 0.6}) is None
    assert knee({3: 0.5, 6: 0.5, 9: 0.5}) == 3


def test_study_says_what_is_covered_and_leaves_its_folder(small, tmp_path):
    done = study(tmp_path, *small, "hydra.run.dir=found", "split=val", "worst=3")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for words in (
        "7 images",
        "strides 8, 16, 32",
        "all boxes",
        "recall@0.7",
        "ratio",
        "best at stride",
        "verdict",
        "probe=true",
    ):
        assert words in done.stdout
    folder = tmp_path / "found"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.*")} == {
        ".run.lock",
        "config.yaml",
        "study.json",
        "figures/coverage.png",
        "figures/worst.png",
    }
    content = json.loads((folder / "study.json").read_text())
    assert sum(group["boxes"] for group in content["by_size"]) == sum(group["boxes"] for group in content["by_ratio"])
    assert 0 < content["figures"]["mean_best_iou"] < 1
    assert len(content["shapes"]) == 9
    assert Image.open(folder / "figures" / "coverage.png").width > 600


@pytest.mark.long
def test_fit_says_what_to_paste_and_training_takes_its_file(small, tmp_path):
    done = study(tmp_path, *small, "hydra.run.dir=found", "fit=true", "anchor.k=1,2,3", "anchor.boxes=200")
    assert done.returncode == 0, done.stderr
    for words in (
        "torchvision default",
        "MMDetection DE",
        "YOLOv5 k-means",
        "anchor.shapes=[[",
        "k = 2",
        "stop to pay",
    ):
        assert words in done.stdout
    content = json.loads((tmp_path / "found" / "study.json").read_text())
    assert len(content["methods"]) == 1 + 3 * 5
    free = [row for row in content["methods"] if row["method"] == "fitted, free shapes"]
    assert [row["k"] for row in free] == [1, 2, 3]
    wanted = free[1]["settings"]["shapes"]
    assert "anchor=fitted_k" in done.stdout

    trained = study(
        tmp_path,
        *small,
        *("--config-dir", "found/conf", "anchor=fitted_k2", "debug=one_step", "logger=none", "hydra.run.dir=run"),
        *("trainer.threads=1", "callbacks.pictures.images=0"),
        script="train.py",
    )
    assert trained.returncode == 0, trained.stderr
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["anchor"]["shapes"] == wanted
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["axes"]["k"] == 2


def test_wrong_settings_are_one_sentence(small, tmp_path):
    for arguments, words in (
        (("split=everything",), "split=everything is not possible"),
        (("fit=true", "anchor.k=3,0"), "ks=[3,0] is not possible"),
        (("anchor.ratio=[1]",), "did you mean anchor.ratios?"),
        (("split=test",), "has no split 'test'"),
        (("logger=csv",), "logger is no group of this command"),
    ):
        done = study(tmp_path, *small, *arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_an_experiment_may_be_typed_as_it_is_trained(small, tmp_path):
    sweeping = tmp_path / "conf" / "experiment"
    sweeping.mkdir(parents=True)
    recipe = "# @package _global_\ndefaults: [recommended]\ntrainer: {epochs: 2}\nsweep: {params: {anchor.k: [3, 6]}}\n"
    (sweeping / "mine.yaml").write_text(recipe)
    done = study(tmp_path, *small[:-2], small[-1], "data=synthetic", "experiment=mine", "hydra.run.dir=found")
    assert done.returncode == 0, done.stderr
    assert "stride 4, k = 3: 45 x 23, 32 x 32, 23 x 45 px" in done.stdout
    assert "experiment=mine" in done.stdout.partition("\nnext")[2].replace("\n", "")


@pytest.mark.long
def test_probe_ranks_anchors_and_says_which_to_take(small, tmp_path):
    candidates = ("anchor.scale=3,0.2", "anchor.ratios=[1]", "probes=probes")
    done = study(tmp_path, *small, "probe=true", *candidates, "assigner=max_iou", "hydra.run.dir=found")
    assert done.returncode == 0, done.stderr
    for words in ("behind the best", "verdict  expected AR@100 spreads over", "train on these anchors with:"):
        assert words in done.stdout
    folder = tmp_path / "found"
    content = json.loads((folder / "study.json").read_text())
    assert {tuple(row["overrides"]) for row in content["candidates"]} == {("anchor.scale=3",), ("anchor.scale=0.2",)}
    expected = [row["metrics"]["AR_100"] for row in content["candidates"]]
    assert expected == sorted(expected, reverse=True)
    assert f"train.py {' '.join(small)}" in done.stdout.replace("'", "")
    for name in ("probe", "probe_anchors"):
        assert Image.open(folder / "figures" / f"{name}.png").width > 600
    again = study(tmp_path, *small, "probe=true", *candidates, "assigner=max_iou", "hydra.run.dir=again")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "again" / "study.json").read_text())["candidates"] == content["candidates"]

    quick = ("trainer.epochs=1", "callbacks.pictures.images=0", "callbacks.outcome.images=0", "logger=none")
    one = ("anchor.scale=3", "anchor.ratios=[1]", "probes=probes", *quick)
    trained = study(tmp_path, *small, *one, "assigner=max_iou", "hydra.run.dir=run", script="train.py")
    assert trained.returncode == 0, trained.stderr
    assert "probe     expected AR@100 spreads over" in trained.stdout
    otherwise = study(tmp_path, *small, *one, "assigner=atss", "hydra.run.dir=other", script="train.py")
    assert otherwise.returncode == 0, otherwise.stderr
    assert "probe  " not in otherwise.stdout


def test_a_cascade_is_not_probed(small, tmp_path):
    two = ["probe=true", "anchor.scale=2,4", "anchor.ratios=[1]", "assigner=max_iou"]
    done = study(tmp_path, *small, *two, "cascade=two_stage")
    assert done.returncode == 2
    assert "add cascade=none" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_full_disk_is_one_sentence_and_the_next_study_clears_what_a_killed_one_left(small, tmp_path):
    study(tmp_path, *small, "hydra.run.dir=first", "worst=0")  # draws the data
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / ".study.json.4711.tmp").touch()
    limited = ["sh", "-c", 'ulimit -f 2; exec "$@"', "sh", sys.executable, str(ROOT / "study.py")]
    command = [*limited, *small, "hydra.run.dir=study", "worst=0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    picture = tmp_path / "study" / "figures" / "coverage.png"
    assert done.stderr.startswith(f"error: {picture} cannot be written (File too large)")
    assert {path.name for path in (tmp_path / "study").rglob("*")} == {".run.lock", "figures"}


def test_a_folder_that_another_process_writes_is_refused(small, tmp_path):
    lock = FolderLock(tmp_path / "study")
    assert lock.acquire()
    done = study(tmp_path, *small, "hydra.run.dir=study")
    assert done.returncode == 2
    assert "study is being written by another process" in done.stderr
    lock.release()
