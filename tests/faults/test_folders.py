"""Folders that hold something: nothing is deleted or written over unless somebody said so."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from anchorlab.errors import SettingError, user_sentences
from anchorlab.runs.files import FolderLock, make_folder, remove_leftovers, remove_leftovers_of, whole_file
from anchorlab.runs.record import FILES, FOLDERS, RunRecord
from anchorlab.training.resume import run_folder


def record(folder, status: str, checkpoint: bool) -> RunRecord:
    record = RunRecord(folder)
    record.start({"seed": 0})
    getattr(record, {"finished": "finish"}.get(status, "pause"))(*([] if status == "finished" else ["a test"]))
    if checkpoint:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").write_bytes(b"weights")
    return record


def test_a_finished_run_is_not_lost(tmp_path):
    with pytest.raises(SettingError, match=r"holds a finished run \(config.yaml, run.json\).*overwrite=true"):
        record(tmp_path, "finished", checkpoint=False).refuse_to_lose(resumes=True)


def test_a_run_that_can_be_resumed_is_not_lost(tmp_path):
    run = record(tmp_path, "paused", checkpoint=True)
    with pytest.raises(SettingError, match=f"an unfinished run .*checkpoints.*resume={tmp_path} to go on"):
        run.refuse_to_lose(resumes=True)


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_a_file_of_something_else_is_not_lost(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(SettingError, match="holds files of something else"):
        RunRecord(tmp_path).refuse_to_lose()


def test_a_run_without_a_checkpoint_and_an_empty_folder_may_be_written(tmp_path):
    RunRecord(tmp_path / "new").refuse_to_lose()
    record(tmp_path, "paused", checkpoint=False).refuse_to_lose()


def test_clearing_takes_what_a_run_wrote_and_nothing_else(tmp_path):
    run = record(tmp_path, "finished", checkpoint=True)
    run.write_recall({"rank": np.zeros(1)})
    (tmp_path / "notes.txt").touch()
    run.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_leftovers_of_writing_go_and_files_of_people_stay(tmp_path):
    (tmp_path / ".run.json.4711.tmp").touch()
    (tmp_path / ".my.notes.tmp").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".my.notes.tmp"]


def test_leftovers_of_one_file_go_when_their_process_is_dead(tmp_path):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    for name in (f".a.csv.{done.pid}.tmp", f".a.csv.{os.getpid()}.tmp", f".b.csv.{done.pid}.tmp", ".a.csv.x.tmp"):
        (tmp_path / name).touch()
    remove_leftovers_of(tmp_path / "a.csv")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f".a.csv.{os.getpid()}.tmp", f".b.csv.{done.pid}.tmp", ".a.csv.x.tmp"}


def test_a_full_disk_names_the_file(tmp_path, capsys):
    with pytest.raises(SystemExit), user_sentences(), whole_file(tmp_path / "a.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as write() has it, without a name
    assert f"{tmp_path / 'a.csv'} cannot be written (No space left on device)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_a_link_makes_no_file_outside(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.lock").symlink_to(tmp_path / "outside")
    with pytest.raises(SystemExit), user_sentences():
        FolderLock(tmp_path / "run").acquire()
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("place", ["file", "file/below", "/dev/null", "/dev/null/below", "/proc/below"])
def test_a_place_that_can_be_no_folder_is_named_with_its_setting(place, tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / place
    with pytest.raises(SettingError, match=f"^output={folder} is no folder"):
        make_folder(folder, "output")


def test_resume_takes_the_last_checkpoint_for_its_run(tmp_path):
    run = os.path.join("outputs", "run")
    assert str(run_folder(os.path.join(run, "checkpoints", "last.ckpt"))) == run
    assert str(run_folder(run)) == run
    with pytest.raises(SettingError, match=r"start=.*best\.ckpt begins a new run"):
        run_folder(os.path.join(run, "checkpoints", "best.ckpt"))
