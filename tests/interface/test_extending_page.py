"""docs/extending.md: the files of the page in an empty folder, and its command; each part does what it is there for."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import anchorlab
from anchorlab.errors import SettingError

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
MODULES = ("nearest", "plain", "boxfile", "good_enough", "lines", "tight")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The page's files, and images for its reader."""
    folder = tmp_path_factory.mktemp("mine")
    files = re.findall(
        r"^`([\w/.]+)`\n\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    assert {path.stem for path in folder.glob("*.py")} == set(MODULES)
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for split, count in (("train", 4), ("val", 2)):
        lines = ["missing.png 1 2 3 4"] if split == "train" else []
        for number in range(count):
            name = f"{split}{number}.png"
            Image.fromarray(rng.integers(0, 255, (96, 128, 3), np.uint8)).save(folder / "photos" / name)
            lines += [f"{name} 20 30 60 70", f"{name} 70 10 100.5 40"]
        (folder / "photos" / f"{split}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def run(folder) -> anchorlab.Run:
    """What the page's command trains, from Python: good enough after the first of three epochs."""
    (command,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    program, train, *overrides = shlex.split(command.replace("\\\n", " "))
    assert (program, train) == ("anchorlab", "train")
    overrides = [word.replace("least=0.9", "least=0") for word in overrides]
    quick = [
        "data.on_error=skip",
        "data.long=128",
        "data.batch_size=2",
        "data.workers=0",
        "trainer.epochs=3",
        "trainer.log_every=1",
    ]
    more = ["trainer.threads=1", "callbacks.outcome.images=0", "callbacks.pictures.images=0", "seed=3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        try:
            run = anchorlab.train(*overrides, *quick, *more, folder="run")
            assert run.network.backbone.channels == 32
        finally:
            for module in MODULES:
                sys.modules.pop(module, None)
    return anchorlab.Run(folder / "run")


def test_reader_reads_and_lists_what_it_cannot(run):
    assert run.config["data"]["reader"]["_target_"] == "boxfile.BoxFileReader"
    assert "missing.png" in (run.folder / "problems.txt").read_text()


def test_assigner_and_backbone_train(run):
    assert np.nanmin(run.curves["train/positives"]) > 0  # each object has its nearest anchors, whatever their overlap
    assert run.config["assigner"]["count"] == 9
    assert run.config["backbone"]["channels"] == 32


def test_callback_ends_the_training(run):
    assert run.metrics["epoch"] == 1


def test_logger_writes_a_line_a_validation(run):
    assert re.fullmatch(r"\d+ \d\.\d{4}\n", (run.folder / "lines.txt").read_text())


def test_metric_stands_with_the_others(run):
    assert 0 <= run.metrics["recall_iou90_100"] <= run.metrics["recall_iou70_100"]
    assert np.nanmax(run.curves["val/recall_iou90_100"]) == pytest.approx(run.metrics["recall_iou90_100"], abs=1e-6)


def test_a_misspelt_argument_is_refused_as_the_page_says(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    typed, said = re.findall(r"\$ anchorlab train (.*)\nerror: (.*)", PAGE.read_text(encoding="utf-8"))[0]
    with pytest.raises(SettingError) as error:
        anchorlab.compose(*typed.split())
    sys.modules.pop("good_enough", None)
    assert str(error.value) == said
