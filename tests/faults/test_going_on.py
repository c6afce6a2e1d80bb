"""Going on with a run under other settings: for longer, or where its data was renamed."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from anchorlab.config.identity import config_hash
from anchorlab.errors import SettingError
from anchorlab.training.resume import lasting, resumed_config

OLD = Path(__file__).parents[1] / "old_runs" / "stopped"


@pytest.fixture
def finished(tmp_path) -> Path:
    shutil.copytree(OLD, run := tmp_path / "run")
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(content | {"status": "finished"}))
    return run


def resumed(run: Path, **changes) -> dict:
    """The config to go on with where these settings, by group, were typed."""
    config = yaml.safe_load((OLD / "config.yaml").read_text()) | {"resume": str(run)}
    words = [f"{group}.{name}={value}" for group, values in changes.items() for name, value in values.items()]
    for group, values in changes.items():
        config[group] = config[group] | values
    return resumed_config(config, [*words, f"resume={run}"])


def test_a_finished_run_goes_on_for_more_epochs_and_is_another_experiment(finished):
    config = resumed(finished, trainer={"epochs": 5})
    assert (config["trainer"]["epochs"], config["continued_from"]) == (5, [2])
    assert config_hash(config) != config_hash({key: value for key, value in config.items() if key != "continued_from"})


def test_commands_after_a_longer_run_have_its_length(finished):
    words = ["trainer.epochs=2", "anchor.k=3"]
    assert lasting(words, resumed(finished, trainer={"epochs": 5})) == ["anchor.k=3", "trainer.epochs=5"]
    assert lasting(words, {"trainer": {"epochs": 2}}) == words


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_finished_run_without_more_epochs_is_refused(epochs, finished):
    with pytest.raises(SettingError, match=r"is finished: trainer\.epochs=<more than 2> beside it trains on"):
        resumed(finished, trainer={"epochs": epochs})


def test_more_epochs_allow_nothing_else(finished):
    with pytest.raises(SettingError, match=r"data\.batch_size=2 would make it another experiment \(it has .*=4\)"):
        resumed(finished, trainer={"epochs": 5}, data={"batch_size": 2})


def test_data_that_was_renamed_is_the_one_setting_that_is_named(finished):
    with pytest.raises(
        SettingError, match=r"data\.root=/d/new .*it has data\.root=synthetic.* ln -s /d/new synthetic$"
    ):
        resumed(finished, trainer={"epochs": 5, "devices": 2}, data={"root": "/d/new"})
