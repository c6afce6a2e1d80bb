"""The command line as people type it: wrong ones are one sentence, exit code 2, and import no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from anchorlab.cli.overrides import check_overrides, implied
from anchorlab.errors import SettingError

ROOT = Path(__file__).parents[2]


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["anchor.ratio=[1]"], "anchor.ratio is not a setting: did you mean anchor.ratios?"),
        (["+anchor.ratio=[1]"], "anchor.ratio is not a setting: did you mean anchor.ratios?"),
        (["++anchor.ratio=[1]"], "anchor.ratio is not a setting: did you mean anchor.ratios?"),
        (["anchor={ratois:[1]}"], "anchor.ratois is not a setting: did you mean anchor.ratios?"),
        (["anchor=torchvison"], "anchor=torchvison does not exist: did you mean anchor=torchvision?"),
        (["experiment=paper-vgg"], "experiment=paper-vgg does not exist: did you mean experiment=paper-vgg16?"),
        (["anchr=fpn"], "anchr is not a setting: did you mean anchor?"),
        (
            ["anchor.ratios=[0.5,", "1,", "2]"],
            "write it without, quoted for the shell: 'anchor.ratios=[0.5,1,2]'",
        ),
        (["trainer.epochs"], "trainer.epochs cannot be read: overrides are written key=value"),
        (
            ["trainer.epochs=abc"],
            "trainer.epochs=abc is not possible: it must be a whole number of at least 1",
        ),
        (["anchor.rounded=3"], "anchor.rounded=3 is not possible: it must be true or false"),
        (["~anchor.k"], "set it to null instead"),
        (
            ["experiment=recommended", "data.root=x", "backbone=tiny"],
            "experiment=recommended sets it, and '~backbone.batch_norm' takes it out",
        ),
        (["data=voc"], "data.root has no value"),
        (["-m", "anchor.k=3,a"], "anchor.k=a is not possible"),
        (
            ["-m", "anchor.k=3,6", "backbone=tiny,tinny"],
            "backbone=tinny does not exist: did you mean backbone=tiny?",
        ),
        (["callbacks.mine._target_=tests.training.breaking.Remove"], "write +callbacks.mine._target_="),
        (
            ["+callbacks.mine._target_=tests.training.breaking.Remove", "+callbacks.mine.pth=a"],
            "callbacks.mine.pth is not possible: Remove takes path",
        ),
        (["+callbacks.mine.path=a"], "callbacks.mine.path is not a setting"),
        (["+mine.part._target_=tests.training.breaking.Remove"], "mine.part._target_ is not a setting"),
        (["loss._target_=tests.nothing.Loss"], "cannot be imported (No module named 'tests.nothing')"),
        (["-m", "--cfg", "job", "anchor.k=3,6"], "--cfg job shows the settings of one run: leave -m out"),
        (["anchor=fpn", "anchor.scale=8", "anchor.sizes=[32]"], "are both given: set one of them to null"),
        (["anchor.sizes=[2048]"], "more than twice the longest image side (data.long=256)"),
    ],
)
def test_wrong_command_line_is_one_sentence(arguments, sentence, tmp_path):
    done = train(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "more"),
    [
        (["anchor.sizes=[32,64]"], ["anchor.scale=null"]),
        (["anchor.sizes=[32],[64]", "anchor.k=1"], ["anchor.scale=null"]),
        (["anchor.shapes=[[[8,16]]]"], ["anchor.scale=null"]),
        (["anchor=fpn", "anchor.scale=2,4"], ["anchor.sizes=null"]),
        (["anchor=fpn,default", "anchor.shapes=[[[8,16]]]"], ["anchor.sizes=null", "anchor.scale=null"]),
        (["anchor.sizes=[32]", "data.root=x"], ["data=auto", "anchor.scale=null"]),
        (["anchor=fpn", "anchor.sizes=[8,16,32,64,128]"], []),
        (["anchor.scale=8"], []),
        (["anchor=fpn", "anchor.sizes=null", "anchor.scale=8"], []),
        (["anchor.sizes=null"], []),
    ],
)
def test_the_size_of_the_anchors_that_is_typed_takes_the_place_of_the_one_that_is_not(overrides, more):
    assert implied("train", ROOT / "conf", overrides, None) == more


def test_a_preset_of_a_pyramid_serves_images_too_small_for_its_largest_anchors():
    config = check_overrides("train", ROOT / "conf", ["anchor=fpn", "data.long=128"])
    assert config["anchor"]["sizes"] == [32, 64, 128, 256, 512]


def test_what_a_recipe_sets_of_a_part_that_was_replaced_can_be_taken_out():
    """And nothing else: a setting of the part itself has a value."""
    recipe, other = ("experiment=recommended", "data.root=x"), ("experiment=torchvision-fpn", "data.root=x")
    replaced = check_overrides("train", ROOT / "conf", [*recipe, "backbone=tiny", "~backbone.batch_norm"])
    assert replaced["backbone"] == {"_target_": "anchorlab.rpn.Tiny", "channels": 64}
    assert (
        "milestones"
        not in check_overrides("train", ROOT / "conf", [*other, "scheduler=one_cycle", "~scheduler.milestones"])[
            "scheduler"
        ]
    )
    for kept in ([*recipe, "~backbone.batch_norm"], [*recipe, "backbone=tiny", "~backbone.channels"]):
        with pytest.raises(SettingError, match="takes a setting away: set it to null instead"):
            check_overrides("train", ROOT / "conf", kept)


def test_help_shows_every_group_its_choices_and_the_settings_beside_them(tmp_path):
    done = train("data=voc", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.startswith("  ")}
    for group in (folder for folder in (ROOT / "conf").iterdir() if folder.is_dir() and folder.name != "hydra"):
        names = {path.stem for path in group.glob("*.yaml")}
        assert {word.rstrip("*") for word in lines[group.name]} == names
    assert "synthetic*" in lines["data"]
    assert lines["seed"] == ["0"]
    assert lines["resume"][:3] == ["null", "a", "run's"]
    assert "--cfg job shows all settings" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_wrong_key_help_and_the_composed_config_import_no_torch(tmp_path):
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['train.py', *{{arguments!r}}]\n"
        f"try:\n    runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "print('heavy:', sorted({'torch', 'lightning', 'albumentations', 'wandb'} & set(sys.modules)))"
    )
    for arguments in (["--help"], ["anchor.ratio=1"], ["--cfg", "job"]):
        command = [sys.executable, "-c", program.replace("{arguments!r}", repr(arguments))]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert "heavy: []" in done.stdout, done.stdout[-500:] + done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["anchor.k=7"], "anchor.k=7"),
        (["anchor.sizes=[32,64]", "anchor.scale=null"], "anchor.sizes"),
        (["anchor.ratios=[0.05]", "anchor.rounded=true", "anchor.scale=0.5"], "anchor"),
        (["anchor=fit", "data.short=900", "data.long=300"], "data.short=900 is above data.long=300"),
        (["loss.divisor=budget", "sampler=all"], "loss.divisor=budget divides by the sampler's budget"),
    ],
)
def test_settings_at_odds_are_refused_before_a_run_has_a_folder(arguments, sentence, tmp_path):
    done = train(*arguments, "logger=none", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_exist_are_refused_before_data_is_read(tmp_path):
    unread = tmp_path / "unread"
    arguments, sentence = ["backbone=efficientnet_lite0_fpn", "backbone.weights=/nowhere.pth"], "backbone.weights"
    done = train(*arguments, f"data.root={unread}", "logger=none", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not unread.exists()
