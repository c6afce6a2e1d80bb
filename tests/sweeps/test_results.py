"""The same jobs give the same figures under every launcher and strategy; each sweep below is a real one."""

import json
from pathlib import Path

import optuna
import pytest

from anchorlab.runs.metrics import read_metrics
from anchorlab.sweeps.folder import identity
from tests.sweeps.test_jobs import records
from tests.training.conftest import Train, run_train

AXIS = "anchor.k=3,6"
SHORT = ("trainer.epochs=2", "sweep.probe=false")


def figures(sweep: Path) -> dict[int, dict[str, float]]:
    """Final figures of the finished jobs, by k."""
    return {run["axes"]["k"]: run["figures"]["final"] for run in records(sweep).values() if run["status"] == "finished"}


@pytest.fixture(scope="session")
def serial(small, tmp_path_factory) -> Path:
    """A finished grid of two jobs."""
    folder = tmp_path_factory.mktemp("serial")
    done = run_train(folder, "-m", *small, *SHORT, AXIS, "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    return folder / "sweep"


@pytest.mark.long
def test_halving_by_two_workers_trains_its_winner_as_the_grid_does(small, train: Train, serial, tmp_path):
    halving = ("sweep=halving", "sweep.factor=2", "hydra.sweep.dir=sweep")
    done = train("-m", *small, *SHORT, AXIS, *halving, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr
    assert all("epoch 1/2" in (tmp_path / "sweep" / job / "log.txt").read_text() for job in "01")
    runs = records(tmp_path / "sweep")
    assert sorted(run["status"] for run in runs.values()) == ["finished", "paused"]
    assert "3 epochs trained of the 4 of the whole grid (75%)" in done.stdout
    winner = next(run for run in runs.values() if run["status"] == "finished")
    assert winner["resumed"] == 1
    k = winner["axes"]["k"]
    assert winner["figures"]["final"] == figures(serial)[k]

    # The figures of both at the first rung are the grid's after one epoch, and the better one went on.
    listed = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"]
    after_one = {job["facts"]["k"]: job["rungs"]["1"] for job in listed}
    for number, run in records(serial).items():
        curve = read_metrics(serial / number / "metrics.csv")["val/AR_100"]
        assert after_one[run["axes"]["k"]] == curve[curve == curve][0]
    assert after_one[k] == max(after_one.values())


@pytest.mark.long
def test_search_goes_on_with_the_trial_a_killed_process_left(small, train: Train, serial, tmp_path):
    arguments = ("-m", *small, *SHORT, AXIS, "sweep=tpe", "hydra.sweep.dir=sweep")
    assert train(*arguments, "sweep.trials=1").returncode == 0
    content = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    storage = f"sqlite:///{tmp_path / 'sweep' / 'optuna.db'}"
    study = optuna.load_study(study_name=f"anchorlab-{identity(content['overrides'])}", storage=storage)
    (first,) = study.trials
    other = {"anchor.k": {"3": "6", "6": "3"}[first.params["anchor.k"]]}
    study.enqueue_trial(other)
    broken = study.ask(first.distributions)
    broken.set_user_attr("folder", str(tmp_path / "sweep"))
    broken.set_user_attr("trained", True)

    done = train(*arguments, "sweep.trials=5", f"sweep.study={study.study_name}")
    assert done.returncode == 0, done.stderr
    assert "every configuration of the space has been tried" in done.stdout
    assert figures(tmp_path / "sweep") == figures(serial)
    assert all(run["resumed"] == 0 for run in records(tmp_path / "sweep").values())
    by_k = {trial.params["anchor.k"]: trial.value for trial in study.get_trials() if trial.value is not None}
    assert by_k == {str(k): final["AR_100"] for k, final in figures(serial).items()}
