"""Files of one's own choices: what the command line refuses, it refuses in a file, and names the file."""

from pathlib import Path

import pytest

from tests.faults.conftest import checked, refused

GLOBAL = "# @package _global_\n"
WRONG = {
    "without-package": ("optimizer: {lr: 0.1}", "sets experiment.optimizer.lr, which nothing reads"),
    "misspelt-group": (GLOBAL + "optimzer: {lr: 0.1}", "optimzer.lr is not a setting: did you mean optimizer.lr?"),
    "other-name": (GLOBAL + "trainer: {max_epochs: 3}", "trainer.max_epochs is not a setting"),
    "wrong-value": (GLOBAL + "trainer: {epochs: abc}", "trainer.epochs=abc is not possible"),
    "wrong-by-chance": (GLOBAL + "defaults: [other-name]", "trainer.max_epochs is not a setting"),
    "group-taken-away": (GLOBAL + "anchor: null", "anchor=null is not possible"),
    "group-as-number": (GLOBAL + "trainer: 5", "trainer=5 is not possible"),
    "no-yaml": (GLOBAL + "trainer: {epochs: 1", "cannot be read as YAML: line 2"),
    "a-list": ("- a", "holds a list"),
    "defaults-no-list": (GLOBAL + "defaults: 5", "defaults=5 is not possible"),
}


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("conf")
    for group in ("experiment", "optimizer", "anchor"):
        (folder / group).mkdir()
    for name, (text, _) in WRONG.items():
        (folder / "experiment" / f"{name}.yaml").write_text(text)
    (folder / "experiment" / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "experiment" / "right.yaml").write_text(
        GLOBAL
        + "defaults:\n  - override /anchor: mine\ntrainer: {epochs: 3}\n"
        + "callbacks: {rates: {_target_: lightning.pytorch.callbacks.LearningRateMonitor}}\nresume: 5\n"
    )
    (folder / "anchor" / "mine.yaml").write_text("_target_: anchorlab.rpn.AnchorGrid\nscale: 4\n")
    (folder / "optimizer" / "nameless.yaml").write_text("lr: 3\n")
    (folder / "optimizer" / "misspelt.yaml").write_text("defaults: [adamw]\nlrr: 3\n")
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_the_sentence_of_the_command_line_names_the_file(name, own):
    refused(WRONG[name][1], f"experiment={name}", own=str(own))
    guilty = "other-name" if name == "wrong-by-chance" else name
    refused(str(own / "experiment" / f"{guilty}.yaml"), f"experiment={name}", own=str(own))


def test_a_file_that_is_no_text_is_named(own):
    refused(f"{own / 'experiment' / 'bytes.yaml'} cannot be read", "experiment=bytes", own=str(own))


def test_files_of_a_group_are_held_to_its_class(own):
    refused("optimizer names no class", "optimizer=nameless", own=str(own))
    refused(f"{own / 'optimizer' / 'misspelt.yaml'}: optimizer.lrr", "optimizer=misspelt", own=str(own))


def test_a_value_that_was_typed_is_not_put_down_to_a_file(own):
    refused("trainer.epochs=x is not possible", "experiment=right", "trainer.epochs=x", own=str(own))
    with pytest.raises(AssertionError):
        refused(f"{own}", "experiment=right", "trainer.epochs=x", own=str(own))


def test_a_right_file_passes(own):
    config = checked("experiment=right", own=str(own), classes="here")
    assert (config["trainer"]["epochs"], config["anchor"]["scale"], config["resume"]) == (3, 4, "5")
    assert "rates" in config["callbacks"]
