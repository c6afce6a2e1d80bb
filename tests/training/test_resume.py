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


def test_other_trainer_leaves_the_length_of_the_run(tmp_path):
    trainer = {"_target_": "anchorlab.training.TrainerSettings", "strategy": "auto", "accumulate": 2, "epochs": 3}
    RunRecord(tmp_path).start({**TYPED, "trainer": trainer}, 0)
    (tmp_path / LAST).parent.mkdir()
    (tmp_path / LAST).touch()
    chosen = {
        **TYPED,
        "resume": str(tmp_path),
        "trainer": {**trainer, "strategy": "ddp", "accumulate": 1, "epochs": 10},
    }
    resumed = resumed_config(chosen, ["trainer=ddp", f"resume={tmp_path}"])
    assert resumed["trainer"] == {**trainer, "strategy": "ddp"}  # 1 and 10 are what every choice of the group says
    assert "continued_from" not in resumed
    longer = resumed_config(chosen, ["trainer=ddp", "trainer.epochs=10", f"resume={tmp_path}"])
    assert (longer["trainer"]["epochs"], longer["continued_from"]) == (10, [3])
