"""Decoded and resized images on disk: made once, memory-mapped, shared by every process that wants the same.

A cache changes no pixel, only the time it takes to get at them; it knows nothing of boxes and augmentation. Each
lies in a folder named after a hash of all that shaped it: the files with their sizes and times, the size asked
for, the decoder. Nothing is ever out of date therefore, only never asked for again, and what was not used for
longest is deleted when another cache needs the room.

    <root>/<hash>/pixels.bin        image after image, (height, width, 3) uint8, RGB
    <root>/<hash>/index.json        a checksum for each image; rows whose file cannot be read, and why; its time is that
                                    of the last use

What lies there is not trusted: a cache of another length, or without a readable index, is made anew, and an image
whose pixels do not have their checksum is decoded from its file again.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
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

VERSION = 2
"""Part of the hash: raise it whenever the same file becomes other pixels."""

GIB = 2**30
PIXELS, INDEX = "pixels.bin", "index.json"
DRAFT = ".draft-"


class PixelCache:
    """The images of a list of records at the network's size, read-only, by row.

    `problems` has what is wrong with the rows that have no image; `select` gives a cache without them.
    """

    def __init__(
        self,
        folder: Path,
        sizes: Sequence[tuple[int, int]],
        problems: dict[int, Problem],
        checksums: Sequence[int] = (),
        decode: Callable[[int], np.ndarray] | None = None,
    ):
        self.folder = folder
        self.sizes = list(sizes)
        self.problems = problems
        self.checksums = checksums
        self.decode = decode
        ends = np.cumsum([3 * height * width for height, width in self.sizes], dtype=np.int64)
        self.starts = [0, *ends.tolist()]
        self.rows = list(range(len(self.sizes)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> np.ndarray:
        place = self.rows[row]
        pixels = np.array(self._pixels[self.starts[place] : self.starts[place + 1]])  # augmentation may write into it
        if self.decode is not None and zlib.crc32(pixels.data) != self.checksums[place]:
            return self.decode(place)
        return pixels.reshape(*self.sizes[place], 3)

    def select(self, rows: Iterable[int]) -> "PixelCache":
        """The cache of these rows alone, counted from 0 in the order given."""
        selected = PixelCache(self.folder, self.sizes, {}, self.checksums, self.decode)
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
    decode = partial(_decode, records, short, long)
    try:
        return _open(folder, sizes, records, decode)
    except (OSError, ValueError):
        pass  # there is none, or no longer
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            try:
                return _open(folder, sizes, records, decode)  # another process filled it while this one waited
            except (OSError, ValueError):
                _delete(folder)
            _make_room(root, 3 * sum(height * width for height, width in sizes), limit, set(keep))
            _fill(folder, records, sizes, short, long)
            return _open(folder, sizes, records, decode)
    except OSError as error:
        raise ValueError(f"data.cache_folder={root} cannot be written: {error.strerror or error}") from error


def _open(
    folder: Path, sizes: Sequence[tuple[int, int]], records: Sequence[Record], decode: Callable[[int], np.ndarray]
) -> PixelCache:
    """The finished cache in `folder`; `OSError` where there is none, `ValueError` where it is damaged."""
    for name in (PIXELS, INDEX):
        if not stat.S_ISREG((folder / name).stat().st_mode):  # reading a pipe would wait for ever
            raise ValueError(f"{folder / name} is no file")
    checksums, reasons = _index((folder / INDEX).read_text(encoding="utf-8"), len(records))
    with contextlib.suppress(PermissionError):  # another user's, who shares the folder
        os.utime(folder / INDEX)
    problems = {r: Problem(records[r].path, f"image {records[r].image_id}", why) for r, why in reasons.items()}
    cache = PixelCache(folder, sizes, problems, checksums, decode)
    if len(cache._pixels) != max(1, cache.starts[-1]):  # mapped from here on: deleting the file takes nothing away
        raise ValueError(f"{folder / PIXELS} has another length")
    return cache


def _index(text: str, images: int) -> tuple[list[int], dict[int, str]]:
    """Checksums, and the reasons of the rows without an image; `ValueError` for what `_fill` did not write."""
    try:
        content = json.loads(text)
        checksums = [int(checksum) for checksum in content["checksums"]]
        reasons = {int(row): str(reason) for row, reason in content["problems"].items()}
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise ValueError("no index") from error
    if len(checksums) != images or not all(0 <= row < images for row in reasons):
        raise ValueError("the index of other images")
    return checksums, reasons


def _decode(records: Sequence[Record], short: int | None, long: int | None, row: int) -> np.ndarray:
    return read_resized(records[row], short, long)


def _delete(folder: Path) -> None:
    """What lies at a cache's place, whatever it is; nothing there is fine."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


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
    lock = FileLock(root / ".lock", mode=0o666)  # for all users who share the folder
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        print(f"waiting for another process that fills {root}", file=sys.stderr)
        return lock.acquire()


def _make_room(root: Path, needed: int, limit: float, keep: set[Path]) -> None:
    """Delete what was not used for longest until `needed` more bytes stay below the limit and fit on the disk."""
    for draft in root.glob(f"{DRAFT}*"):  # of a process that was killed: whoever is alive holds the lock
        shutil.rmtree(draft, ignore_errors=True)
    used = {folder: (_last_use(folder), (folder / PIXELS).stat().st_size) for folder in _finished(root)}
    taken = sum(size for _, size in used.values())
    for folder in sorted(used.keys() - keep, key=lambda folder: used[folder]):
        if taken + needed <= limit * GIB:
            break
        with contextlib.suppress(PermissionError):  # another user's
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
    folders = [path.parent for path in root.glob(f"*/{PIXELS}") if path.is_file()]
    return [folder for folder in folders if not folder.name.startswith(DRAFT)]


def _last_use(folder: Path) -> int:
    """When a cache was opened last; 0 for one without an index, which nobody can open."""
    path = folder / INDEX
    return path.stat().st_mtime_ns if path.is_file() else 0


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
            written = list(tracked(pool.map(write, records, starts), "caching images", len(records)))
            os.fsync(file.fileno())
        problems = {row: found for row, found in enumerate(written) if isinstance(found, str)}
        index = {"checksums": [0 if isinstance(found, str) else found for found in written], "problems": problems}
        (draft / INDEX).write_text(json.dumps(index), encoding="utf-8")
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


def _write(file: int, record: Record, start: int, *, short: int | None, long: int | None) -> int | str:
    """Put the record's image in its place; its checksum, or the reason why it cannot be read."""
    try:
        image = read_resized(record, short, long)
    except DataError as error:
        return error.problems[0].message
    if os.pwrite(file, image.data, start) != image.nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return zlib.crc32(image.data)
