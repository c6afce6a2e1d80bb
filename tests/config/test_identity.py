"""What a class declares is found without importing it, and counts in the identity of an experiment."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from anchorlab.config import declared
from anchorlab.config.identity import config_hash

OLD_RUNS = Path(__file__).parents[1] / "old_runs"
MODULE = """
class Watcher:
    only_watches = True

class Heir(Watcher):
    def __init__(self, every, rate=0.5, *, quiet=False, clock=print):
        pass
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that cannot be imported: what it declares is read all the same."""
    (tmp_path / "outside_callbacks.py").write_text("import nothing_of_this_name\n" + MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    declared._definition.cache_clear()
    return "outside_callbacks"


@pytest.fixture(params=["finished", "stopped"])
def old(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load((OLD_RUNS / request.param / "config.yaml").read_text())


def changed(config: dict[str, Any], group: str, **settings: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    changed[group].update(settings)
    return changed


def test_declarations_are_read_from_the_source(outside):
    assert declared.attribute(f"{outside}.Watcher", "only_watches") is True
    assert declared.attribute(f"{outside}.Heir", "only_watches") is None
    assert declared.attribute("nowhere.at.All", "only_watches") is None
    found = declared.defaults(f"{outside}.Heir")
    assert (found["rate"], found["quiet"]) == (0.5, False)
    assert "every" not in found
    assert found["clock"] != print


def test_a_callback_counts_unless_its_class_only_watches(outside, old):
    assert config_hash(changed(old, "callbacks", more={"_target_": f"{outside}.Watcher"})) == config_hash(old)
    more = config_hash(changed(old, "callbacks", more={"_target_": f"{outside}.Heir", "every": 1}))
    other = config_hash(changed(old, "callbacks", more={"_target_": f"{outside}.Heir", "every": 2}))
    assert len({config_hash(old), more, other}) == 3


@pytest.mark.parametrize("name", ["progress", "pictures", "outcome", "stop_after"])
def test_our_watching_callbacks_do_not_count(old, name):
    fewer = copy.deepcopy(old)
    fewer["callbacks"].pop(name, None)
    assert config_hash(fewer) == config_hash(old)


def test_a_new_key_that_does_what_was_done_before_leaves_the_hash(old, monkeypatch):
    monkeypatch.setattr(declared, "defaults", lambda target: {"new": 2})
    assert config_hash(changed(old, "assigner", new=None)) == config_hash(old)
    assert config_hash(changed(old, "assigner", new=2.0)) == config_hash(old)
    assert config_hash(changed(old, "assigner", new=3)) != config_hash(old)


def test_a_group_that_is_new_counts_where_a_class_is_chosen(old):
    assert config_hash({**old, "refine": {"_target_": None}}) == config_hash(old)
    assert config_hash({**old, "refine": {"_target_": "anchorlab.rpn.SecondLook"}}) != config_hash(old)
    assert config_hash({**old, "augment": {"_target_": None}}) != config_hash({**old, "augment": {}})


def test_a_key_of_the_first_runs_counts_at_its_default_too(old):
    less = copy.deepcopy(old)
    del less["assigner"]["ignore_iof"]
    assert config_hash(less) != config_hash(old)


def test_wrapped_optimizers_are_the_same_experiment(old):
    name = {"torch.optim.AdamW": "adamw", "torch.optim.SGD": "sgd"}[old["optimizer"]["_target_"]]
    wrapped = changed(old, "optimizer", _target_=f"anchorlab.training.optimizers.{name}")
    assert config_hash(wrapped) == config_hash(old)
