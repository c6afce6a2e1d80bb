"""Folder of a sweep: how the same command finds it again, who may write to it, and its list of jobs.

    <folder>/sweep.json     the command and its jobs; what became of a job is in its own folder
    <folder>/<number>/      a job: an ordinary run's folder
    <folder>/multirun.yaml  the config the sweep was started with

Locks are the kernel's (flock): they end with their process, however it ends. Light, as every start imports it.
"""

import contextlib
import datetime
import errno
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from anchorlab.runs.files import new_folder, write_whole

SCHEMA_VERSION = 1
ROOT = Path("multirun")
# These say how a sweep is run or shown, not which one it is.
NOT_ITS_IDENTITY = ("sweep.dry_run=", "sweep.probe=", "sweep.at_once=", "sweep.again=", "hydra.", "hydra/")

_held: dict[Path, IO[str]] = {}


class SweepFolder:
    """Reads and writes sweep.json.

    Attributes:
        content: `identity`, `overrides`, `status` (running, finished, failed), `created`, `jobs` (one dict each).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = _read(path) or {}

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return self.content.setdefault("jobs", [])

    def start(self, overrides: Sequence[str], commit: str | None) -> None:
        """Take note of the command that runs now; jobs of an earlier one stay listed."""
        self.content |= {
            "schema_version": SCHEMA_VERSION,
            "identity": identity(overrides),
            "overrides": list(overrides),
            "status": "running",
            "created": self.content.get("created") or _now(),
            "commit": self.content.get("commit") or commit,
            "jobs": self.jobs,
        }
        self.write()

    def write(self) -> None:
        """sweep.json, whole at any moment."""
        text = json.dumps(self.content | {"updated": _now()}, indent=1)
        write_whole(self.path / "sweep.json", f"{text}\n".encode())

    def free_number(self) -> int:
        """The number of the next job: one that none here has or had."""
        return 1 + max((job["number"] for job in self.jobs), default=-1)


def identity(overrides: Sequence[str]) -> str:
    """Which commands are the same sweep: those with the same overrides, in any order, under any launcher."""
    counted = sorted(o for o in overrides if not o.lstrip("+").startswith(NOT_ITS_IDENTITY))
    return hashlib.sha256("\0".join(counted).encode()).hexdigest()[:12]


def claim(overrides: Sequence[str], again: bool = False) -> Path:
    """The folder this command sweeps in, locked: an unfinished sweep of the same command, else a new one of its own.

    Looks below `multirun/` in the working folder, newest first. A sweep that another process is running is none.

    Args:
        again: a new folder in any case.
    """
    found = None if again else next((path for path in _unfinished(overrides) if hold(path)), None)
    if found is not None:
        return found
    now = datetime.datetime.now()
    folder = new_folder(ROOT / f"{now:%Y-%m-%d}", f"{now:%H-%M-%S}")
    hold(folder)
    return folder


def find(overrides: Sequence[str]) -> Path | None:
    """The newest unfinished sweep of the same command, running or not; None where there is none."""
    return next(_unfinished(overrides), None)


def _unfinished(overrides: Sequence[str]) -> Iterator[Path]:
    wanted = identity(overrides)
    for path in sorted(ROOT.glob("*/*/sweep.json"), reverse=True):
        content = _read(path.parent)
        if content and content["identity"] == wanted and content["status"] != "finished":
            yield path.parent


def hold(folder: Path) -> bool:
    """Lock `folder` for the life of this process; whether it is ours (now or already)."""
    path = folder.absolute()
    if path in _held:
        return True
    path.mkdir(parents=True, exist_ok=True)
    file = (path / ".lock").open("a")
    if not _try_lock(file):
        file.close()
        return False
    _held[path] = file
    return True


def release(folder: Path) -> None:
    """Give the lock back, where this process holds it."""
    file = _held.pop(folder.absolute(), None)
    if file is not None:
        file.close()


@contextlib.contextmanager
def held_by_job(folder: Path, waiting: str) -> Iterator[int]:
    """Lock a job's folder; yields the descriptor, which the job's process inherits and so keeps the lock.

    Where a job of a killed sweep still runs there, prints `waiting` and waits for its end.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        if not _try_lock(file):
            print(waiting, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _try_lock(file: IO[str]) -> bool:
    """Whether the file is ours now; True where the file system knows no such locks, as Lustre without `-o flock`."""
    import fcntl  # not on Windows

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def _read(folder: Path) -> dict[str, Any] | None:
    """sweep.json; None where there is none that a sweep of this kind wrote."""
    path = folder / "sweep.json"
    if not path.is_file():
        return None
    from anchorlab.runs.reading import read_json  # pydantic and numpy: no other start needs them

    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    known = isinstance(content, dict) and content.get("schema_version") == SCHEMA_VERSION
    if not known or not {"identity", "status", "jobs"} <= set(content) or not isinstance(content["jobs"], list):
        return None
    return content if all(map(_is_job, content["jobs"])) else None


def _is_job(listed: Any) -> bool:
    return (
        isinstance(listed, dict)
        and isinstance(listed.get("number"), int)
        and isinstance(listed.get("point"), list)
        and isinstance(listed.get("facts"), dict | None)
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
