"""Decoded and resized images on disk: made once, memory-mapped, shared by every process that wants the same.

A cache changes no pixel, only the time it takes to get at them; it knows nothing of boxes and augmentation. Each
lies in a folder named after a hash of all that shaped it: the files with their sizes and times, the size asked
for, the decoder. Nothing is ever out of date therefore, only never asked for again, and what was not used for
longest is deleted when another cache needs the room.

    <root>/<hash>/pixels.bin        image after image, (height, width, 3) uint8, RGB
    <root>/<hash>/problems.json     rows whose file cannot be read, and why; its time is that of the last use
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path

import cv2
import numpy as np
from filelock import AcquireReturnProxy, FileLock, Timeout

from anchorlab.console import tracked
from anchorlab.cores import available_cores
from anchorlab.data.decode import read_resized
from anchorlab.data.resize import target_size
from anchorlab.data.sample import DataError, Problem, Record

VERSION = 1
"""Part of the hash: raise it whenever the same file becomes other pixels."""

GIB = 2**30
PIXELS, PROBLEMS = "pixels.bin", "problems.json"
DRAFT = ".draft-"


class PixelCache:
    """The images of a list of records at the network's size, read-only, by row.

    `problems` has what is wrong with the rows that have no image; `select` gives a cache without them.
    """

    def __init__(self, folder: Path, sizes: Sequence[tuple[int, int]], problems: dict[int, Problem]):
        self.folder = folder
        self.sizes = list(sizes)
        self.problems = problems
        ends = np.cumsum([3 * height * width for height, width in self.sizes], dtype=np.int64)
        self.starts = [0, *ends.tolist()]
        self.rows = list(range(len(self.sizes)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> np.ndarray:
        place = self.rows[row]
        pixels = self._pixels[self.starts[place] : self.starts[place + 1]]
        return np.array(pixels).reshape(*self.sizes[place], 3)  # a copy: augmentation may write into it

    def select(self, rows: Iterable[int]) -> "PixelCache":
        """The cache of these rows alone, counted from 0 in the order given."""
        selected = PixelCache(self.folder, self.sizes, {})
        selected.rows = [self.rows[row] for row in rows]
        return selected

    @cached_property
    def _pixels(self) -> np.ndarray:
        return np.memmap(self.folder / PIXELS, mode="r", dtype=np.uint8)

    def __getstate__(self) -> dict:
        """Without the map: a process that is not forked opens the file itself."""
        return {name: value for name, value in vars(self).items() if name != "_pixels"}


def open_cache(
    root: Path, records: Sequence[Record], short: int | None, long: int | None, limit: float, keep: Iterable[Path] = ()
) -> PixelCache:
    """The cache of these records at the size of `resize.target_size`; filled first where there is none yet.

    Args:
        limit: GiB that all caches below `root` may take together. Those not used for longest are deleted to make
            room, but never those in `keep`, which this process is about to use itself.

    Raises:
        ValueError: for a limit or a disk that is too small, and a root that cannot be written.
    """
    folder = root / _key(records, short, long)
    sizes = [target_size(record.height, record.width, short, long) for record in records]
    try:
        return _open(folder, sizes, records)
    except OSError:
        pass  # there is none, or no longer
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            if not folder.is_dir():  # else another process filled it while this one waited
                _make_room(root, 3 * sum(height * width for height, width in sizes), limit, set(keep))
                _fill(folder, records, sizes, short, long)
            return _open(folder, sizes, records)
    except OSError as error:
        raise ValueError(f"data.cache_folder={root} cannot be written: {error.strerror or error}") from error


def _open(folder: Path, sizes: Sequence[tuple[int, int]], records: Sequence[Record]) -> PixelCache:
    """The finished cache in `folder`; `OSError` where there is none."""
    reasons = json.loads((folder / PROBLEMS).read_text(encoding="utf-8"))
    os.utime(folder / PROBLEMS)
    rows = {int(row): reason for row, reason in reasons.items()}
    problems = {row: Problem(records[row].path, f"image {records[row].image_id}", rows[row]) for row in rows}
    cache = PixelCache(folder, sizes, problems)
    _ = cache._pixels  # mapped from here on: deleting the file takes nothing away any more
    return cache


def _key(records: Sequence[Record], short: int | None, long: int | None) -> str:
    digest = hashlib.blake2b(json.dumps([VERSION, cv2.__version__, short, long]).encode(), digest_size=8)
    for record in records:
        try:
            state = record.path.stat()
            stamp = [state.st_size, state.st_mtime_ns]
        except OSError:
            stamp = []
        digest.update(json.dumps([str(record.path.absolute()), record.height, record.width, *stamp]).encode())
    return digest.hexdigest()


def _locked(root: Path) -> AcquireReturnProxy:
    """Holds, as a context, the right to change what lies below `root`."""
    lock = FileLock(root / ".lock")
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        print(f"waiting for another process that fills {root}", file=sys.stderr)
        return lock.acquire()


def _make_room(root: Path, needed: int, limit: float, keep: set[Path]) -> None:
    """Delete what was not used for longest until `needed` more bytes stay below the limit and fit on the disk."""
    for draft in root.glob(f"{DRAFT}*"):  # of a process that was killed: whoever is alive holds the lock
        shutil.rmtree(draft, ignore_errors=True)
    used = {path.parent: (path.stat().st_mtime_ns, path.with_name(PIXELS).stat().st_size) for path in _finished(root)}
    taken = sum(size for _, size in used.values())
    for folder in sorted(used.keys() - keep, key=lambda folder: used[folder]):
        if taken + needed <= limit * GIB:
            break
        shutil.rmtree(folder)
        taken -= used[folder][1]
    if taken + needed > limit * GIB:
        raise ValueError(
            f"data.cache_limit={limit:g} GiB is too small: the images of this run take "
            f"{(taken + needed) / GIB:.3g} GiB at this size; raise it, or set data.cache=null"
        )
    free = shutil.disk_usage(root).free
    if needed > free:
        raise ValueError(
            f"data.cache_folder={root} has {free / GIB:.3g} GiB left on its disk, and the images take "
            f"{needed / GIB:.3g} GiB: name a folder elsewhere, or set data.cache=null"
        )


def _finished(root: Path) -> list[Path]:
    return [path for path in root.glob(f"*/{PROBLEMS}") if not path.parent.name.startswith(DRAFT)]


def _fill(
    folder: Path, records: Sequence[Record], sizes: Sequence[tuple[int, int]], short: int | None, long: int | None
) -> None:
    """Decode every image into a folder of our own and rename it: nobody ever meets a half-filled cache."""
    draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=folder.parent))
    starts = PixelCache(draft, sizes, {}).starts
    try:
        with (draft / PIXELS).open("wb") as file, ThreadPoolExecutor(available_cores()) as pool:
            _reserve(file.fileno(), max(1, starts[-1]))  # no empty file can be mapped
            write = partial(_write, file.fileno(), short=short, long=long)
            reasons = tracked(pool.map(write, records, starts), "caching images", len(records))
            problems = {row: reason for row, reason in enumerate(reasons) if reason is not None}
            os.fsync(file.fileno())
        (draft / PROBLEMS).write_text(json.dumps(problems), encoding="utf-8")
        draft.chmod(0o755)  # mkdtemp keeps others out; a shared cache should not
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _reserve(file: int, size: int) -> None:
    """Take the room now, where the system can: a disk that is too full says so at once."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


def _write(file: int, record: Record, start: int, *, short: int | None, long: int | None) -> str | None:
    """Put the record's image in its place; the reason where it cannot be read."""
    try:
        image = read_resized(record, short, long)
    except DataError as error:
        return error.problems[0].message
    if os.pwrite(file, image.data, start) != image.nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None
