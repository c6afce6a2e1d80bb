"""Odd settings: each is one sentence of a person's error, or does what was meant; nothing else is raised."""

import pytest
import torch

from anchorlab.build import build
from anchorlab.cli.choices import group_defaults
from anchorlab.config.composition import composed, to_plain
from anchorlab.config.settings import leaf_keys
from anchorlab.errors import SettingError, UserError, user_sentences
from anchorlab.installation import CONFIGS
from anchorlab.training.hardware import decide
from tests.faults.conftest import checked, refused

ODD = ("null", "-1", "1e300", "abc", "[]", "[null]", "[[1e-300]]", "{a:1}")
"""Of every kind of YAML, and at the ends of numbers."""
GROUPS = [group for group in group_defaults("train", CONFIGS) if group != "sweep"]


@pytest.mark.long
@pytest.mark.parametrize("command", ["train", "study", "compare", "evaluate", "propose", "export", "explain"])
def test_no_setting_of_any_value_ends_in_a_traceback(command):
    base = to_plain(composed(command, CONFIGS, ()), complete=False)
    given = [f"{key}=x" for key, value in base.items() if value == "???"]
    wrong = {}
    for key in leaf_keys(base):
        for value in ODD if key not in ("hydra",) else ():
            try:
                checked(*given, f"{key}={value}", command=command, classes="here")
            except UserError as error:
                if "\n" in str(error):
                    wrong[f"{key}={value}"] = str(error)
            except Exception as error:
                wrong[f"{key}={value}"] = repr(error)
    assert wrong == {}


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_that_chooses_nothing_is_none_or_refused(group):
    choices = {path.stem for path in (CONFIGS / group).glob("*.yaml")}
    if "none" in choices:
        assert checked(f"{group}=null", classes="unseen") == checked(f"{group}=none", classes="unseen")
    elif group_defaults("train", CONFIGS)[group] is None:
        assert checked(f"{group}=null", classes="unseen") == checked(classes="unseen")
    else:
        refused(f"{group}=null does not exist", f"{group}=null")


def test_no_callbacks_by_any_spelling():
    for words in ("callbacks=[]", "~callbacks", "callbacks=null", "callbacks=none"):
        assert checked(words, classes="unseen")["callbacks"] == {}


def test_a_plus_before_a_group_that_is_there_means_the_choice():
    assert (
        checked("+optimizer=sgd", classes="unseen")["optimizer"]
        == checked("optimizer=sgd", classes="unseen")["optimizer"]
    )


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        ("an anchor of inf x 0 pixels", ["anchor.ratios=[1e-300]"]),
        ("an anchor of inf x inf pixels", ["anchor.scale=1e300"]),
        ("data.long=100000 is not possible", ["data.long=100000"]),
        ("data.pad_to=1000000 is not possible", ["data.pad_to=1000000"]),
        ("scheduler.warmup=1 is not possible", ["scheduler.warmup=1"]),
        ("sweep.rungs=[abc] is not possible", ["sweep=halving", "sweep.rungs=[abc]"]),
        ("data lacks what its class needs (reader)", ["data=loading", "data.root=x"]),
        ("optimizer.weight_decay is not possible: LBFGS takes", ["optimizer._target_=torch.optim.LBFGS"]),
        ("both say how much is validated", ["data.limit_val=2", "trainer.limit_val_batches=1"]),
        ("seed: ${hydra:...} is known only when the command runs", ["seed=${hydra:job.num}"]),
        ("data.reader=5 is not possible: it is a group of settings", ["data.reader=5"]),
    ],
)
def test_what_no_machine_can_do_is_refused_before_anything_starts(words, overrides):
    refused(words, *overrides)


def test_sizes_beyond_memory_are_refused():
    refused("eval.size=1000000000 is not possible", "run=x", "eval.size=1000000000", command="evaluate")
    refused("size=1000000000 is not possible", "run=x", "source=x", "size=1000000000", command="propose")


@pytest.mark.parametrize("key", ["resume", "start"])
def test_a_folder_may_be_called_5(key):
    assert checked(f"{key}=5", classes="unseen")[key] == "5"


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("trainer.devices=[1] names GPUs", {"devices": [1]}),
        ("trainer.devices=-1 names GPUs", {"devices": -1}),
        ("trainer.devices=0 is not possible", {"devices": 0}),
    ],
)
def test_devices_that_a_cpu_does_not_have(words, settings):
    trainer = checked(classes="unseen")["trainer"] | {"accelerator": "cpu"} | settings
    with pytest.raises(SettingError) as error:
        decide(trainer, torch.nn.Identity())
    assert words in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named_with_the_setting_that_asks():
    trainer = checked(classes="unseen")["trainer"] | {"accelerator": "gpu"}
    for key in ("trainer.accelerator", "device"):
        with pytest.raises(SettingError, match=rf"^{key}=gpu is not possible"):
            decide(trainer, torch.nn.Identity(), key)


def test_too_little_memory_is_a_sentence(capsys):
    with pytest.raises(SystemExit) as left, user_sentences():
        torch.empty(2**62, dtype=torch.uint8)
    assert left.value.code == 1
    assert "not enough memory" in capsys.readouterr().err


def test_missing_arguments_of_a_class_are_named():
    with pytest.raises(SettingError, match=r"^loss lacks what its class needs \(beta\)"):
        build({"_target_": "tests.faults.test_settings.needs_beta"}, "loss")


def needs_beta(beta: float) -> float:
    return beta


@pytest.mark.parametrize("place", ["coco128.yaml", "/data/coco", "photos/", "photos"])
def test_a_place_given_as_the_format_of_data_is_told_where_it_belongs(place, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    refused(f"data={place} does not exist: data= is the format (auto, coco,", f"data={place}")
    refused(f"write data.root={place}", f"data={place}")


def test_a_misspelt_format_of_data_is_answered_with_the_nearest():
    refused("data=coc does not exist: did you mean data=coco?", "data=coc")
