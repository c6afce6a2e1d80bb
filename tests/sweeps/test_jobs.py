"""A sweep's jobs are processes of their own: one failing job ends itself, a killed sweep is finished by its command."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from anchorlab.runs.metrics import read_metrics
from anchorlab.runs.record import RunRecord
from anchorlab.sweeps import jobs
from tests.training.conftest import command


def records(sweep: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/run.json")}


@pytest.mark.long
def test_failing_jobs_are_recorded_and_the_others_go_on(small, train, tmp_path):
    # k=7 cannot be built, lr=1e30 diverges, and the anchors of k=null are those of k=3.
    lists = ("anchor.k=3,7,null", "optimizer.lr=0.001,1e30")
    launcher = ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10")
    done = train("-m", *small, *lists, "debug=one_step", "sweep.probe=false", "hydra.sweep.dir=sweep", *launcher)
    assert done.returncode == 1
    runs = records(tmp_path / "sweep")
    ends = {job: run["status"] for job, run in runs.items()}
    assert ends == {"0": "finished", "1": "failed", "2": "failed", "3": "failed"}
    assert runs["0"]["axes"]["k"] == 3
    assert "diverged" in runs["1"]["reason"]
    assert all("anchor.k=7" in runs[job]["reason"] for job in "23")
    plan, results = done.stdout.split("4 jobs in sweep")[1:]
    assert "same as job 0" in plan
    assert "2 to run, 2 impossible, 2 left out" in plan
    assert "1 finished, 3 failed" in results
    assert runs["1"]["reason"] in results


def test_reason_of_a_failure_is_the_error_and_not_hydra_s_advice(tmp_path):
    text = "ValueError: no such thing\n\nSet the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.\n"
    (tmp_path / "fails.py").write_text(f"import sys\nsys.stderr.write({text!r})\nsys.exit(1)\n")
    with (tmp_path / ".lock").open("w") as lock:
        command = [sys.executable, str(tmp_path / "fails.py")]
        code, last_line = jobs._run(command, tmp_path, lock.fileno(), tmp_path / "log.txt", "1 of 1")
    assert jobs._reason(code, last_line) == "ValueError: no such thing"
    assert (tmp_path / "log.txt").read_text() == text


@pytest.mark.parametrize(
    ("code", "end"),
    [
        (128 + signal.SIGTERM, ("interrupted", "stopped by SIGTERM")),
        (-signal.SIGTERM, ("failed", "ended by signal 15 (Terminated)")),  # when it went on, before its first step
        (1, ("failed", "a full disk")),
    ],
)
def test_job_that_was_asked_to_stop_has_not_failed(code, end, tmp_path):
    record = RunRecord(tmp_path)
    record.start({"seed": 0}, seed=0)
    assert not jobs.outcome(tmp_path).has_ended
    record.interrupt("stopped by SIGTERM")
    jobs._note_failure(tmp_path, OmegaConf.create({"seed": 0}), [], code, "error: a full disk")
    outcome = jobs.outcome(tmp_path)
    assert (outcome.status, outcome.reason) == end
    assert outcome.has_ended


@pytest.mark.long
def test_same_command_finishes_a_killed_sweep(small, train, tmp_path):
    arguments = (
        *small,
        "-m",
        "anchor.k=3,6",
        "trainer.epochs=3",
        "sweep.probe=false",
        "logger=wandb",
        "logger.mode=offline",
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    process = subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    in_second_job = False
    for line in process.stdout:
        in_second_job |= line.startswith("job 1")
        if in_second_job and line.startswith("epoch 2/3"):
            process.send_signal(signal.SIGKILL)  # the job's process dies with it, so the pipe ends
    assert process.wait() == -signal.SIGKILL
    sweep = next((tmp_path / "multirun").glob("*/*"))
    before = records(sweep)
    assert {job: run["status"] for job, run in before.items()} == {"0": "finished", "1": "running"}

    done = train(*arguments)
    assert done.returncode == 0, done.stderr
    assert "1 finished before, 1 broke off: to resume" in done.stdout
    assert "\njob 0 (" not in done.stdout
    after = records(sweep)
    assert after["0"] == before["0"]
    assert (after["1"]["status"], after["1"]["resumed"], after["1"]["id"]) == ("finished", 1, before["1"]["id"])
    curves = read_metrics(sweep / "1" / "metrics.csv")
    assert curves["epoch"][~np.isnan(curves["val/AR_100"])].tolist() == [0, 1, 2]
    assert list((tmp_path / "multirun").glob("*/*")) == [sweep]
    assert {path.parent.parent.name for path in sweep.glob("*/wandb/offline-run-*")} == {"0", "1"}
    groups = {OmegaConf.load(sweep / job / "config.yaml").logger.group for job in "01"}
    assert groups == {f"{sweep.parent.name}_{sweep.name}"}


@pytest.mark.long
def test_sweep_of_two_process_jobs_runs_each_job_once(small, train, tmp_path):
    arguments = ("-m", "anchor.k=3,6", "trainer=ddp_cpu", "trainer.threads=1", "trainer.epochs=1", "sweep.probe=false")
    done = train(*small, *arguments, "hydra.sweep.dir=sweep")  # -m may stand behind overrides
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == 2
    assert {job: run["axes"]["k"] for job, run in records(tmp_path / "sweep").items()} == {"0": 3, "1": 6}
    assert {path.name for path in tmp_path.iterdir()} == {"sweep"}
