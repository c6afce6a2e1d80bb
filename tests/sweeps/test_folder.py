"""Which folder a sweep gets: its own, or that of the same command when it broke off; and what each is locked by."""

import subprocess
import sys
from pathlib import Path

import pytest

from anchorlab.sweeps.folder import SweepFolder, claim, find, held_by_job, hold, identity, release

COMMAND = ["anchor.k=3,6", "trainer.epochs=2"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def started(status: str = "running") -> Path:
    path = claim(COMMAND, again=True)
    folder = SweepFolder(path)
    folder.start(COMMAND, commit=None)
    folder.content["status"] = status
    folder.write()
    release(path)
    return path


def python(program: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_sweeps_that_start_together_share_no_folder():
    program = f"from anchorlab.sweeps.folder import claim; print(claim({COMMAND!r}))"
    processes = [python(program) for _ in range(3)]
    folders = [process.communicate()[0].strip() for process in processes]
    assert len(set(folders)) == 3
    assert all(Path(folder).is_dir() for folder in folders)


def test_same_command_finds_its_newest_unfinished_sweep():
    first, second = started(), started("failed")
    assert first != second
    assert find(COMMAND) == second
    assert claim([*reversed(COMMAND), "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "sweep.at_once=1"]) == second
    release(second)
    assert claim(["anchor.k=3,9", "trainer.epochs=2"]) not in (first, second)


def test_finished_and_running_sweeps_are_left_alone():
    finished, running = started("finished"), started()
    program = f"from anchorlab.sweeps.folder import claim; print(claim({COMMAND!r}), flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert Path(other.stdout.readline().strip()) == running
    assert not hold(running)
    assert claim(COMMAND) not in (finished, running)
    other.kill()
    other.wait()
    assert hold(running)  # a lock ends with its process, however it ends


def test_unreadable_sweeps_are_passed_over():
    path = started()
    (path / "sweep.json").write_text("{")
    assert find(COMMAND) is None
    assert SweepFolder(path).jobs == []


def test_identity_counts_what_a_job_gets_and_nothing_else():
    assert identity(COMMAND) == identity([*COMMAND, "sweep.dry_run=true", "hydra.launcher.n_jobs=3"])
    assert identity(COMMAND) != identity([*COMMAND, "sweep=halving"])
    assert identity(COMMAND) != identity([*COMMAND, "seed=1"])


def test_a_job_waits_for_the_one_that_still_runs_in_its_folder(tmp_path, capsys):
    folder = tmp_path / "sweep" / "0"
    program = (
        "import pathlib; from anchorlab.sweeps.folder import held_by_job\n"
        f"with held_by_job(pathlib.Path({str(folder)!r}), ''):\n print('held', flush=True); input()"
    )
    other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdin is not None
    assert other.stdout.readline() == "held\n"
    waiting = (
        "import pathlib; from anchorlab.sweeps.folder import held_by_job\n"
        f"with held_by_job(pathlib.Path({str(folder)!r}), 'waiting'):\n print('mine')"
    )
    second = python(waiting)
    assert second.stdout is not None
    assert second.stdout.readline() == "waiting\n"
    other.stdin.write("\n")
    other.stdin.close()
    assert second.stdout.readline() == "mine\n"
    assert (other.wait(), second.wait()) == (0, 0)
    with held_by_job(folder, "waiting"):
        assert capsys.readouterr().out == ""
