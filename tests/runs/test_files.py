"""Whole files, and folders with one writer at a time, whatever happens to the writer."""

import ast
import contextlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from anchorlab.runs.files import FolderLock, read_archive, remove_leftovers, write_whole

HOLD = """
import sys, time
from pathlib import Path
from anchorlab.runs.files import FolderLock
print(FolderLock(Path(sys.argv[1])).acquire() and "held", flush=True)
sys.stdin.read()
"""


def test_lock_is_held_until_its_process_ends_however(tmp_path):
    lock = FolderLock(tmp_path)
    assert not lock.held_elsewhere()
    arguments = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert lock.held_elsewhere()
        assert not lock.acquire()
        os.kill(holder.pid, signal.SIGKILL)
    assert not lock.held_elsewhere()
    assert lock.acquire()
    assert lock.acquire()  # again, by whom it is held


def test_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"old")
    with pytest.raises(TypeError):
        write_whole(path, "no bytes")  # pyright: ignore[reportArgumentType]
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    leftover = tmp_path / "checkpoints" / ".last.ckpt.123.tmp"
    for path in (leftover, tmp_path / "notes.tmp", tmp_path / "checkpoints" / "last.ckpt"):
        path.write_bytes(b"")
    remove_leftovers(tmp_path)
    assert not leftover.exists()
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def test_no_two_threads_read_headers_at_a_time(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "arrays.npz", allow_pickle=False, a=np.arange(6).reshape(2, 3))
    meeting, parse, met = threading.Barrier(2), ast.literal_eval, []

    def parse_in_company(text):
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(timeout=0.2)  # passes only where the other thread is in here too
            met.append(text)
        return parse(text)

    monkeypatch.setattr(ast, "literal_eval", parse_in_company)
    with ThreadPoolExecutor(2) as pool:
        read = list(pool.map(read_archive, [tmp_path / "arrays.npz"] * 2))
    assert met == []
    assert [arrays["a"].tolist() for arrays in read] == [[[0, 1, 2], [3, 4, 5]]] * 2
