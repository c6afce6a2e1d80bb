"""Crash points of a process: kills it at the n-th thing that it does to the files of a folder.

A point lies before each file that is opened to be written, before each rename, removal and new folder, and in the
middle of what was written to a file: half of it is there, as after a power cut. Sees what Python itself does, by its
audit events, and in this process alone.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
DIR_FD = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 2}
"""The events beside `open`, and the place of the folder's file descriptor among their arguments; -1 there: none."""


class CrashPoints:
    """Counts the points of this process from now on.

    Args:
        folder: the files that count lie in it.
        crash_at: the number, from 1, of the point at which the process ends as by SIGKILL; 0: at none.
        log: a file outside of the folder, which gets a line for each point.
    """

    def __init__(self, folder: Path, crash_at: int, log: Path) -> None:
        self._folder = folder.resolve()
        self._crash_at = crash_at
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._count = 0
        self._written: tuple[Path, int] | None = None  # the file opened last, and its size before
        self._lock = threading.RLock()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: Sequence[Any]) -> None:
        if (path := self._path(event, arguments)) is None:
            return
        with self._lock:
            if self._written is not None:
                self._in_the_middle(*self._written)
            self._point(f"{event} {path.name}")
            self._written = (path, _size(path)) if event == "open" else None

    def _path(self, event: str, arguments: Sequence[Any]) -> Path | None:
        """What is about to be changed in the folder; None: nothing."""
        if event == "open":
            name, _, flags = arguments
            if not isinstance(name, str | os.PathLike) or not flags & WRITING:
                return None
            path = Path(name).absolute()
        elif event in DIR_FD:
            parent = arguments[DIR_FD[event]]
            path = Path(arguments[0]) if parent == -1 else Path(f"/proc/self/fd/{parent}", arguments[0])
            path = path.absolute().parent.resolve() / path.name
            if path.exists() == (event == "os.mkdir"):
                return None  # changes nothing
        else:
            return None
        return path if self._folder in path.parents else None

    def _in_the_middle(self, path: Path, before: int) -> None:
        grown = _size(path) - before
        if grown > 0 and self._point(f"half of {path.name}", dies=False):
            os.truncate(path, before + grown // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def _point(self, what: str, dies: bool = True) -> bool:
        """Count a point; whether the process is to end at it, which it does at once where it `dies`."""
        self._count += 1
        os.write(self._log, f"{self._count} {what}\n".encode())
        if self._count == self._crash_at and dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._count == self._crash_at


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
