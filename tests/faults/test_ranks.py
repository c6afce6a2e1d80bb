"""Numbers of processes in the environment that nobody started."""

import pytest

from anchorlab.errors import SettingError
from anchorlab.training.processes import check_launch, check_ranks, check_slurm, process_rank

STARTED = {
    "torchrun": {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
    "Lightning": {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "NODE_RANK": "0"},
    "srun": {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
    "nobody": {},
}


@pytest.fixture(autouse=True)
def bare(monkeypatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("starter", STARTED)
def test_processes_that_somebody_started_keep_their_numbers(starter, monkeypatch):
    for name, value in STARTED[starter].items():
        monkeypatch.setenv(name, value)
    check_ranks()
    assert process_rank() == (0 if starter == "nobody" else 1)


@pytest.mark.parametrize(
    "left",
    [{"RANK": "1"}, {"LOCAL_RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "2"}, {"LOCAL_RANK": "x"}, {"SLURM_PROCID": "3"}],
)
def test_a_number_that_was_left_behind_is_refused_with_its_name(left, monkeypatch):
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    name, value = next(iter(left.items()))
    with pytest.raises(SettingError, match=rf"^{name}={value} is set .* unset {name}"):
        check_ranks()


def test_where_srun_started_several_the_sentence_has_the_way_out_for_one_process(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    for check in (check_slurm, lambda: check_launch(1)):
        with pytest.raises(ValueError, match="for one process: srun --ntasks=1"):
            check()
