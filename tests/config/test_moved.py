"""Runs from before classes moved: their names are read as those of today, and their hashes stay."""

from pathlib import Path

import pytest
import yaml
from hydra.utils import get_class

from anchorlab.config.identity import config_hash
from anchorlab.config.moved import with_current_names, with_old_names
from anchorlab.runs.record import read_run

OLD_RUNS = Path(__file__).parents[1] / "old_runs"


@pytest.mark.parametrize("name", ["stopped", "finished"])
def test_hash_of_an_old_run_is_that_of_its_settings_today(name):
    run = read_run(OLD_RUNS / name)
    assert config_hash(run.config) == run.config_hash


@pytest.mark.parametrize("name", ["stopped", "finished"])
def test_old_names_lead_to_classes_of_today_and_back(name):
    written = yaml.safe_load((OLD_RUNS / name / "config.yaml").read_text())
    config = with_current_names(written)
    assert with_old_names(config) == written
    assert get_class(config["assigner"]["_target_"]).__name__ in ("ATSSAssigner", "MaxIoUAssigner")
    assert config["assigner"]["_target_"] != written["assigner"]["_target_"]
