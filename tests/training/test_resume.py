"""Settings of a run that goes on: its own, with other devices where the command names them, and no other experiment."""

import pytest

from anchorlab.errors import SettingError
from anchorlab.runs.record import RunRecord
from anchorlab.training.resume import LAST, resumed_config

TYPED = {"seed": 0, "resume": None, "trainer": {"precision": "auto", "threads": "auto", "strategy": "auto"}}
DECIDED = {"precision": "bf16", "threads": 4, "strategy": "auto"}


def test_other_trainer_takes_the_run_s_decisions_that_change_its_result(tmp_path):
    RunRecord(tmp_path).start({**TYPED, "trainer": DECIDED}, 0, overrides=["trainer=slurm"])
    (tmp_path / LAST).parent.mkdir()
    (tmp_path / LAST).touch()
    elsewhere = {**TYPED, "resume": str(tmp_path), "trainer": {**TYPED["trainer"], "strategy": "ddp"}}
    resumed = resumed_config(elsewhere, ["trainer=torchrun", f"resume={tmp_path}"])
    assert resumed["trainer"] == {"precision": "bf16", "threads": "auto", "strategy": "ddp"}

    exact = {**elsewhere, "trainer": {**elsewhere["trainer"], "precision": 32}}
    with pytest.raises(SettingError, match=r"trainer\.precision=32 would make it another experiment"):
        resumed_config(exact, ["trainer=torchrun", "trainer.precision=32"])
