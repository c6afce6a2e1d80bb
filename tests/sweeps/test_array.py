"""Jobs in a queue: one that is killed with all its processes is one lost job, run once more; the others are waited for.

The queue is submitit's on this machine; tests/cluster/ has Slurm's.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.training.conftest import command
from tests.training.processes import TIMEOUT, family

LAUNCHER = ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10", "sweep.probe=false")


def queued(sweep: Path, job: int) -> str | None:
    """The job's number in the queue: that of its first process."""
    with contextlib.suppress(OSError, ValueError, LookupError):
        return json.loads((sweep / "sweep.json").read_text())["jobs"][job].get("queued")
    return None


def kill(sweep: Path, job: int, but: str | None = None) -> str:
    """Kill all processes of a job when it has been submitted, and since then not killed as number `but`."""
    end = time.monotonic() + TIMEOUT
    while (number := queued(sweep, job)) in (None, but):
        assert time.monotonic() < end
        time.sleep(0.1)  # leaves the processor to what is waited for
    assert number is not None
    for process in family(int(number)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return number


@pytest.mark.long
def test_lost_job_is_run_once_more_and_then_failed(small, tmp_path):
    arguments = ("-m", *small, "optimizer.lr=0.001,0.002", "debug=one_step", "hydra.sweep.dir=sweep", *LAUNCHER)
    process = subprocess.Popen(command(*arguments), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    sweep = tmp_path / "sweep"
    kill(sweep, 1)
    kill(sweep, 0, but=kill(sweep, 0))
    out, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert "job 0 lost; tried once more" in out
    assert "job 1 lost; tried once more" in out
    records = [json.loads((sweep / str(job) / "run.json").read_text()) for job in (0, 1)]
    assert [(record["status"], record["reason"]) for record in records] == [("failed", "lost"), ("finished", None)]
    assert records[0]["seed"] == records[1]["seed"]
    assert "1 finished, 1 failed" in out or "1 failed, 1 finished" in out
