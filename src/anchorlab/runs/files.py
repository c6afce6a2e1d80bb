"""Atomic file writing: a file is never seen half-written, not even after a crash.

It also lets only one process at a time write to a folder.
"""

import errno
import glob
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from anchorlab.errors import SettingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


LEFTOVER = re.compile(r"\..+\.\d+\.tmp")
"""Names that `whole_file` gives while it writes: `.run.json.4711.tmp`, with the process's number."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write: it has a temporary name beside `path`, reaches the disk, then takes the name in one step.

    Folders are made where missing. A reader sees the old content or the new, nothing between; where writing fails,
    the old content stays, and nothing else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # a full disk, where only writing fails, not opening
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """`whole_file` of this content."""
    with whole_file(path) as file:
        file.write(content)


def read_archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file that this program wrote itself; `runs.reading.read_arrays` reads those of others."""
    return unpack_archive(path.read_bytes())


def unpack_archive(content: bytes, limit: int | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file's content; several threads may decompress at the same time.

    Args:
        limit: bytes that they may unpack to; None: any number.

    Raises:
        Exception: whatever zipfile and numpy raise for content that is no such archive or holds objects.
    """
    with zipfile.ZipFile(BytesIO(content)) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if limit is not None and size > limit:
            raise ValueError(f"it unpacks to {size >> 20:,} MiB, at most {limit >> 20:,} are read")
        inflated = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    with _reading_headers:
        return {name: np.lib.format.read_array(BytesIO(array), allow_pickle=False) for name, array in inflated.items()}


_reading_headers = threading.Lock()
"""numpy reads headers by ast.literal_eval, which fails in two threads at a time before Python 3.11.8 and 3.12.2
("AST constructor recursion depth mismatch", github.com/python/cpython/issues/106905)."""


def remove_leftovers_of(path: Path) -> None:
    """Delete the temporary files that killed processes of this machine left of one file, which nobody has locked."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if LEFTOVER.fullmatch(leftover.name) and not _lives(int(leftover.name.split(".")[-2])):
            leftover.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # not ours to signal
        return True
    return True


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files below `folder` that a killed process left; nobody else may be writing there."""
    for path in folder.rglob(".*.*.tmp"):
        if LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


class FolderLock:
    """Held by the process that writes a folder, until it ends, however it ends.

    A lock of the operating system on the file `.run.lock`: unlike a mark in a file, it never outlives its holder, and
    children (loader workers, which a killed parent survives for seconds) do not inherit it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".run.lock"
        self._file: int | None = None

    def acquire(self, shared: bool = False) -> bool:
        """Whether the folder is now ours; True where the system knows no such locks.

        shared: several processes may hold it at a time, each for its own part; none while one holds it alone.
        """
        if fcntl is None or self._file is not None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A link would make, or lock, a file outside of the folder.
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            return error.errno not in (errno.EACCES, errno.EAGAIN)  # others: a file system without locks
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def held_elsewhere(self) -> bool:
        """Whether another process holds it now, or this one may not lock it."""
        if self._file is not None or not self.path.exists():
            return False
        try:
            free = self.acquire()
        except OSError:
            return True
        self.release()
        return not free


def make_folder(folder: Path, key: str) -> Path:
    """The folder that a setting names, made with those above it where missing.

    Args:
        key: the setting's.

    Raises:
        SettingError: it is a file or a device, or cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        why = "a file lies there" if is_file else error.strerror or str(error)
        raise SettingError(f"{key}={folder} is no folder and cannot be made one ({why}): give another one") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SettingError(f"{key}={folder} cannot be written: give another folder, or the right to write there")
    return folder


def new_folder(parent: Path, name: str) -> Path:
    """`parent/name`, or with a number behind it where another process was first."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
