"""A forked job is a process of its own, and computes what the same command computes alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from anchorlab.runs.metrics import read_metrics
from anchorlab.sweeps import forker
from anchorlab.sweeps.forker import Forked, Forker

BY_THE_CLOCK = {"train/images_per_s", "train/data_wait"}


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Iterator[Forker]:
    own = Forker(os.environ, tmp_path_factory.mktemp("forker"))
    yield own
    own.close()


def start(own: Forker, folder: Path, text: str, *arguments: str, **environment: str) -> tuple[Forked, int]:
    """A program of one's own in `folder`, and the descriptor from which to read its standard error."""
    script = folder / "program.py"
    script.write_text(text)
    read, write = os.pipe()
    with (folder / ".lock").open("w") as lock:
        job = own.start([str(script), *arguments], folder, {**os.environ, **environment}, {2: write}, [lock.fileno()])
    os.close(write)
    assert job is not None
    return job, read


def ended(job: Forked, errors: int) -> tuple[int, str]:
    with os.fdopen(errors) as file:
        text = file.read()
    return job.wait(), text


def test_program_finds_what_an_interpreter_of_its_own_would_give_it(own, tmp_path):
    text = """
import atexit, os, sys, __main__
atexit.register(lambda: print("at its end", file=sys.stderr))
seen = [sys.argv[1:], os.getcwd(), sys.path[0], os.environ["MINE"], __main__.__spec__, os.getppid()]
print(*seen, sep="\\n", file=sys.stderr)
sys.exit(3)
"""
    code, errors = ended(*start(own, tmp_path, text, "a=1", "b", MINE="x"))
    assert code == 3
    folder = str(tmp_path)
    assert errors.splitlines() == ["['a=1', 'b']", folder, folder, "x", "None", str(own.pid), "at its end"]


def test_job_that_is_killed_or_breaks_ends_alone(own, tmp_path):
    assert ended(*start(own, tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"))[0] == -9
    code, errors = ended(*start(own, tmp_path, "raise ValueError('no such thing')"))
    assert (code, errors.splitlines()[-1]) == (1, "ValueError: no such thing")
    assert ended(*start(own, tmp_path, "import threading\nthreading.Thread(target=print).start()"))[0] == 0


def test_job_gets_ctrl_c_and_can_be_waited_for(own, tmp_path):
    text = "import os, time\nos.write(2, b'runs')\ntime.sleep(600)"
    job, errors = start(own, tmp_path, text)
    assert os.read(errors, 100) == b"runs"
    with pytest.raises(subprocess.TimeoutExpired):
        job.wait(timeout=0)
    os.kill(job.pid, signal.SIGINT)
    code, text = ended(job, errors)
    assert (code, text.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")


def test_job_dies_with_a_forker_that_is_killed(tmp_path):
    own = Forker(os.environ, tmp_path)
    job, errors = start(own, tmp_path, "import os, time\nos.write(2, b'runs')\ntime.sleep(600)")
    assert os.read(errors, 100) == b"runs"
    os.kill(own.pid, signal.SIGKILL)
    assert ended(job, errors) == (-signal.SIGKILL, "")  # the pipe's end says that no process has it open
    assert own.start(["-m", "this"], tmp_path, {}, {}) is None
    own.close()


def test_questions_are_answered_by_processes_of_the_shared_forker(tmp_path, monkeypatch):
    (tmp_path / "twice.py").write_text(
        "import json, os, sys\ndef main():\n    print(json.dumps([os.getppid(), 2 * json.load(sys.stdin)]))\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    shared = forker.shared()
    assert shared is not None
    assert forker.ask("twice", 21, {}) == [shared.pid, 42]
    assert forker.ask("twice", "a" * 1_000_000, {}) == [shared.pid, "a" * 2_000_000]
    with pytest.raises(RuntimeError, match="ended with exit code 1"):
        forker.ask("no.such.module", 1, {})


def test_question_is_answered_without_a_forker_too():
    shared = forker.shared()
    assert shared is not None
    os.kill(shared.pid, signal.SIGKILL)
    assert forker.ask("anchorlab.sweeps.check", [{}], {}) is None
    again = forker.shared()
    assert again is not None
    assert again.pid != shared.pid


@pytest.mark.long
def test_forked_jobs_compute_what_the_command_alone_computes(small, train, tmp_path):
    same = (*small, "trainer.epochs=1", "data.workers=1", "callbacks.outcome.images=0")
    swept = train("-m", *same, "seed=0,1", "sweep.probe=false", "hydra.sweep.dir=sweep")
    assert swept.returncode == 0, swept.stderr
    alone = train(*same, "seed=1", "hydra.run.dir=alone")
    assert alone.returncode == 0, alone.stderr
    of_jobs = [read_metrics(tmp_path / "sweep" / str(job) / "metrics.csv") for job in range(2)]
    single = read_metrics(tmp_path / "alone" / "metrics.csv")
    assert set(of_jobs[1]) == set(single)
    for name in set(single) - BY_THE_CLOCK:
        np.testing.assert_array_equal(of_jobs[1][name], single[name])
    assert not np.array_equal(of_jobs[0]["train/loss"], single["train/loss"])
    ids = {json.loads(path.read_text())["id"] for path in tmp_path.glob("**/run.json")}
    assert len(ids) == 3
