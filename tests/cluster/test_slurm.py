"""Slurm itself runs the script and the commands of docs/interruptions-and-processes.md, as they stand there."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster.slurm import Slurm
from tests.training.processes import ROOT, TIMEOUT, family

pytestmark = pytest.mark.cluster

PAGE = ROOT / "docs" / "interruptions-and-processes.md"
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1")
CPU = ("trainer.accelerator=cpu", "trainer.epochs=1", "logger=csv")
LONG = (*CPU, "trainer.epochs=5000")


def script() -> str:
    """The batch script of the page."""
    blocks = re.findall(r"^```\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (found,) = (block for block in blocks if "#SBATCH" in block)
    return found


def runs(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/*/*/run.json"))]


def wait_for(seen, what: str) -> None:
    end = time.monotonic() + TIMEOUT
    while not seen():
        assert time.monotonic() < end, f"waited {TIMEOUT} s for {what}"
        time.sleep(0.2)  # leaves the processor to what is waited for


def trains(folder: Path) -> bool:
    """Whether a checkpoint of a run below `folder` is there."""
    return any(folder.glob("**/last.ckpt"))


def test_script_of_the_page_completes(slurm: Slurm, folder, small):
    job = slurm.submit(folder, script(), *small, *CPU, options=TWO_NODES)
    assert slurm.end_of(job) == ("COMPLETED", "0:0")
    output = (folder / f"{job}.out").read_text()
    assert "2 x cpu" in output
    assert "Warning" not in output
    assert [run["status"] for run in runs(folder)] == ["finished"]


def test_script_is_queued_again_before_its_time_is_up_and_goes_on(slurm: Slurm, folder, small):
    job = slurm.submit(folder, script(), *small, *LONG, options=TWO_NODES)
    wait_for(lambda: trains(folder), "a checkpoint")
    slurm.run("scancel", "--signal=USR1", job)  # to the tasks and not to the script, as two minutes before the end
    wait_for(lambda: slurm.job(job)["Restarts"] == "1", "the job to be queued again")
    (run,) = runs(folder)
    assert (run["status"], run["reason"]) == ("interrupted", "stopped by SIGUSR1")
    wait_for(lambda: slurm.job(job)["JobState"] == "PENDING", "the queue")

    # Two minutes later: started sooner, by StartTime=now, it now and then gets the exit code of the first script.
    wait_for(lambda: runs(folder)[0]["resumed"] == 1, "the run to go on")
    slurm.run("scancel", job)
    assert slurm.end_of(job)[0] == "CANCELLED"
    assert len(runs(folder)) == 1


def test_killed_task_is_named(slurm: Slurm, folder, small):
    job = slurm.submit(folder, script(), *small, *LONG, options=TWO_NODES)
    wait_for(lambda: trains(folder), "a checkpoint")
    os.kill(task(job, "train.py", rank=1), signal.SIGKILL)
    assert slurm.end_of(job) == ("FAILED", "137:0")
    (run,) = runs(folder)
    assert (run["status"], run["reason"]) == ("failed", "process 1 (n2) was killed or did not answer")
    output = (folder / f"{job}.out").read_text()
    assert output.count("process 1 (n2) was killed or did not answer") == 1
    assert "Traceback" not in output


def task(job: str, program: str, rank: int = 0) -> int:
    """The process of a job's task that runs `program`."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode(), b"SLURM_STEP_ID=0"}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            variables, words = (place / "environ").read_bytes().split(b"\0"), (place / "cmdline").read_bytes()
        except OSError:
            continue
        if wanted <= {*variables} and program.encode() in words:
            return int(place.name)
    raise AssertionError(f"task {rank} of job {job} runs no {program}")


def _release(fifo: Path, until: subprocess.Popen) -> None:
    while until.poll() is None:
        with suppress(BrokenPipeError):  # whoever read it has ended
            fifo.write_text("go on")


def test_forgotten_srun_is_one_sentence(slurm: Slurm, folder, small):
    forgotten = script().replace("srun --wait=600 python", "python")
    job = slurm.submit(folder, forgotten, *small, *CPU, options=TWO_NODES)
    assert slurm.end_of(job) == ("FAILED", "2:0")
    assert "write srun before the command" in (folder / f"{job}.out").read_text()


def test_srun_in_an_interactive_job_trains_one_run(slurm: Slurm, folder, small):
    command = ("salloc", *TWO_NODES, "srun", "python", "train.py", "trainer=slurm", *small, *CPU)
    assert "2 x cpu" in slurm.run(*command, cwd=folder)
    assert [run["status"] for run in runs(folder)] == ["finished"]


def test_sweep_outlives_a_lost_job_and_its_submitter(slurm: Slurm, folder, small):
    launcher = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1")
    axis = ("optimizer.lr=0.001,0.002", "hydra.sweep.dir=sweep", "sweep.probe=false")
    hold = folder / "hold"
    os.mkfifo(hold)
    held = ("+callbacks.breaking._target_=tests.training.breaking.Hold", f"+callbacks.breaking.fifo={hold}")
    command = ["python", "train.py", "-m", *small, *CPU, "trainer.epochs=2", *held, *axis, *launcher]
    sweep = folder / "sweep"

    first = subprocess.Popen(command, cwd=folder, env=slurm.environment, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: trains(sweep / "0") and trains(sweep / "1"), "two jobs")
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=TIMEOUT)
    assert first.returncode == 130
    assert "jobs 0, 1 go on in Slurm's queue; scancel" in out

    number = json.loads((sweep / "sweep.json").read_text())["jobs"][1]["queued"]
    for process in family(task(slurm.job(number)["JobId"], "submitit")):
        os.kill(process, signal.SIGKILL)
    second = subprocess.Popen(command, cwd=folder, env=slurm.environment, stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None
    assert any("still in the queue" in line for line in second.stdout)
    # Each opening meets a job that waits in its second epoch: job 0, and job 1 when it has come that far again.
    threading.Thread(target=_release, args=(hold, second), daemon=True).start()
    out, _ = second.communicate(timeout=TIMEOUT)
    assert second.returncode == 0
    assert "2 finished" in out
    statuses = [json.loads((sweep / str(job) / "run.json").read_text())["status"] for job in (0, 1)]
    assert statuses == ["finished", "finished"]
