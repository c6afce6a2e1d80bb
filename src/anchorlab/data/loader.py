"""Batches for one process in an order known beforehand, whatever happens to files and loading processes meanwhile.

torch's DataLoader starts the worker processes and carries their batches. Here is what it leaves open: how long
training waited, which image a process was at when it was killed or hung, and what takes the place of an image
that cannot be read. What an item is made of is not decided here.

A row is that of a record; a key is a row, or (epoch, row).
"""

import atexit
import multiprocessing
import multiprocessing.connection
import re
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, get_worker_info

from anchorlab.data.batch import SHARED_MEMORY, Batch, collate, shared_memory_left
from anchorlab.data.dataset import ImageDataset, Key
from anchorlab.data.sample import DataError, Problem
from anchorlab.errors import RunError

CHANCES = 2  # an image that a loading process dies or hangs at is tried again, in case another was to blame
RESTARTS = 10  # of loading processes; once more, and something else than an image must be wrong
PID, ROW = 0, 1  # columns of the slate
NOWHERE = -1
LITTLE_SHARED_MEMORY = 64 * 2**20
DEATH = "DataLoader worker"  # how torch's message of one begins
LAST_BREATH_S = 10  # at most, between the end of a process's connections and its own


class LostWorkerError(RunError):
    """A loading process was killed or hangs: one sentence with what it was doing and what to do."""


@dataclass(frozen=True)
class Parcel:
    """What a loading process hands over: a batch and the problems met on the way, or the error instead of it."""

    batch: Batch | None
    problems: list[Problem] = field(default_factory=list)
    error: DataError | None = None

    def pin_memory(self) -> "Parcel":
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


class Loader:
    """Iterates over the batches of an epoch.

    The sampler is asked for the order at the first batch, not when the iterator is made: Lightning makes the
    first iterator of a resumed run before it tells the sampler the epoch.

    Args:
        dataset: gives the items.
        sampler: gives their keys; its `set_epoch`, if it has one, is Lightning's to call.
        batch_size: items per batch.
        drop_last: leave out an incomplete last batch.
        pad_to: as in `batch.collate`.
        workers: loading processes, which stay over epochs; 0: this one.
        timeout: seconds to wait for a batch before a loading process counts as hanging; None: for ever. Without
            loading processes nobody is there to notice.
        on_error: "raise" or "skip", of an image that cannot be read, or that a loading process was killed or hung
            at. With "skip" the next image of the data set that can be read takes its place: batches keep their
            size on every process, and their content depends on nothing but the files. A process is started anew,
            and its image left out only when it happens there `CHANCES` times.
        report: called with each problem that was skipped.

    Raises, while it is iterated over:
        DataError: an image that cannot be read, with `on_error` "raise"; or not one that can.
        LostWorkerError: a loading process killed or hanging, with "raise"; or once more than `RESTARTS` times.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        sampler: Sampler[Any] | Sequence[Any],
        batch_size: int,
        drop_last: bool = False,
        *,
        pad_to: int = 1,
        workers: int = 0,
        timeout: float | None = None,
        on_error: str = "raise",
        report: Callable[[Problem], None] = lambda problem: None,
    ):
        self.dataset = dataset
        self.batch_sampler = BatchSampler(sampler, batch_size, drop_last)  # where Lightning looks for `set_epoch`
        self.workers = workers
        self.timeout = timeout
        self.on_error = on_error
        self.report = report
        self.waited = 0.0
        """Seconds that whoever iterates has waited for batches."""
        self._plan: list[list[Any]] = []
        self._slate = torch.full((max(1, workers), 2), NOWHERE).share_memory_()
        self._desk = Desk(dataset, pad_to, on_error, self._slate)
        self._processes: DataLoader | None = None
        self._strikes: Counter[int] = Counter()
        self._restarts = 0
        self._hung = False

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        batches = list(self.batch_sampler)
        served = 0
        while served < len(batches):
            self._plan[:] = batches[served:]
            parcels = self._start()
            for expected in self._plan:
                parcel = self._receive(parcels, expected)
                if parcel is None:
                    break  # with new processes, from this batch on
                served += 1
                yield self._unpack(parcel)

    def _start(self) -> Iterator[Parcel]:
        """Parcels of the plan, from the processes of the epoch before where they live."""
        if self._processes is None:
            self._processes = self._new_processes()
        try:
            with self._alarm():  # which also puts off torch's own handler: it would raise wherever training is
                parcels = iter(self._processes)
            atexit.register(_kill, self._slate)
            return parcels
        except RuntimeError as error:
            self._recover(self._rows_of(_lost_processes(error)))
            return self._start()

    def _new_processes(self) -> DataLoader:
        with warnings.catch_warnings():
            # That there are more processes than cores: `workers` was chosen, and waiting for a disk needs no core.
            warnings.filterwarnings("ignore", "This DataLoader will create")
            return DataLoader(
                self._desk,
                batch_sampler=self._plan,
                num_workers=self.workers,
                persistent_workers=self.workers > 0,
                collate_fn=_as_it_is,
                worker_init_fn=self._desk.open,
                pin_memory=torch.cuda.is_available(),
                # Without one of its own a loader draws from the global generator, and shifts whatever else does.
                generator=torch.Generator(),
            )

    def _receive(self, parcels: Iterator[Parcel], expected: Sequence[Key]) -> Parcel | None:
        """The parcel of the keys `expected`; None where its processes were lost and have to be started anew."""
        started = time.perf_counter()
        try:
            with self._patience(expected), self._alarm():
                return next(parcels)
        except RuntimeError as error:
            self._recover(self._rows_of(_lost_processes(error)))
            return None
        except (OSError, EOFError) as error:  # what a process hands over is fetched from it: it may be dying
            self._recover(self._rows_of(self._dying(error)))
            return None
        finally:
            self.waited += time.perf_counter() - started

    @contextmanager
    def _alarm(self) -> Iterator[None]:
        """While this context lasts, the death of a loading process raises at once; torch looks every five seconds."""
        if self.workers == 0:
            yield
            return
        self._look_for_dead()
        before = _set_child_handler(self._look_for_dead)
        try:
            yield
        finally:
            _set_child_handler(before)

    def _look_for_dead(self, *_: object) -> None:
        if dead := _dead(self._slate):
            raise RuntimeError(f"{DEATH} (pid(s) {', '.join(map(str, dead))}) exited unexpectedly")

    def _dying(self, error: OSError | EOFError) -> list[int]:
        """The process ids of those whose end broke a connection; any other error goes on its way."""
        alive = {child.sentinel: child.pid for child in _children(self._slate)}
        dead = _dead(self._slate)
        if alive and not dead:
            dead = {alive[sentinel] for sentinel in multiprocessing.connection.wait(list(alive), LAST_BREATH_S)}
        if not dead:
            raise error
        return list(dead)

    @contextmanager
    def _patience(self, expected: Sequence[Key]) -> Iterator[None]:
        """While this context lasts, `timeout` runs; then whoever is at the expected rows is killed, and so noticed."""
        if self.timeout is None or self.workers == 0:
            yield
            return
        watch = threading.Timer(self.timeout, self._kill_at, [{_row(key) for key in expected}])
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def _kill_at(self, rows: set[int]) -> None:
        self._hung = True
        at_them = torch.isin(self._slate[:, ROW], torch.tensor(sorted(rows)))
        _kill(self._slate[at_them] if at_them.any() else self._slate)

    def _unpack(self, parcel: Parcel) -> Batch:
        for problem in parcel.problems:
            self.report(problem)
        if parcel.error is not None:
            raise parcel.error
        assert parcel.batch is not None
        return parcel.batch

    def _rows_of(self, pids: Sequence[int]) -> list[int]:
        """The rows that these processes were at; none for one between two batches."""
        return [row for pid, row in self._slate.tolist() if pid in pids and row != NOWHERE]

    def _recover(self, rows: Sequence[int]) -> None:
        """End what is left of the loading processes, and raise or leave out as `on_error` says."""
        what = f"hung for {self.timeout:g} s (data.timeout)" if self._hung else "was killed"
        self._end()
        self._restarts += 1
        records = [self.dataset.records[row] for row in rows]
        problems = [Problem(at.path, f"image {at.image_id}", f"the process that loads it {what}") for at in records]
        if self.on_error == "raise" or self._restarts > RESTARTS:
            raise LostWorkerError(_sentence(problems, what, self._restarts))
        for row, problem in zip(rows, problems, strict=True):
            self._strikes[row] += 1
            left_out = self._strikes[row] >= CHANCES
            if left_out:
                self._desk.left_out.add(row)
            outcome = "the image is left out" if left_out else "another process tries it again"
            self.report(replace(problem, message=f"{problem.message}; {outcome}"))

    def _end(self) -> None:
        _kill(self._slate)
        self._slate.fill_(NOWHERE)
        self._processes = None
        self._hung = False


class Desk(Dataset[Parcel]):
    """What a loading process does: it fills parcels, and notes on a slate in shared memory which row it is at."""

    def __init__(self, dataset: ImageDataset, pad_to: int, on_error: str, slate: torch.Tensor):
        self.dataset = dataset
        self.pad_to = pad_to
        self.on_error = on_error
        self.slate = slate  # (workers, 2) int64: process id and row
        self.left_out: set[int] = set()

    def open(self, worker: int) -> None:
        """Set up a worker process: the processes are parallel already, threads would fight over the cores.

        Signals are for the main process: Ctrl-C and schedulers send them to all, and it needs batches until it
        stops. Therefore it has to kill its workers when it exits; one whose main process is gone ends by itself.
        """
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
            if hasattr(signal, name):  # Windows has only the first two
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        self.slate[worker, PID] = multiprocessing.current_process().pid or NOWHERE

    def __getitems__(self, keys: Sequence[Key]) -> Parcel:
        """The parcel of these keys. Errors travel in it: as exceptions they would lose their type and wording."""
        problems: list[Problem] = []
        try:
            return Parcel(collate([self._item(key, problems) for key in keys], self.pad_to), problems)
        except DataError as error:
            return Parcel(None, problems, error)
        finally:
            self._note(NOWHERE)

    def _item(self, key: Key, problems: list[Problem]) -> Any:
        """The key's item, or with "skip" that of the next row that can be read."""
        for step in range(len(self.dataset)):
            moved = _moved(key, step, len(self.dataset))
            if _row(moved) in self.left_out:
                continue
            self._note(_row(moved))
            try:
                return self.dataset[moved]
            except DataError as error:
                if self.on_error == "raise":
                    raise DataError(f"{error}; mend the file, or set data.on_error=skip to go on without it") from None
                problems += error.problems
        raise DataError("no image of the data set can be read any more", problems)

    def _note(self, row: int) -> None:
        worker = get_worker_info()
        if worker is not None:
            self.slate[worker.id, ROW] = row


def _row(key: Key) -> int:
    return key[1] if isinstance(key, tuple) else key


def _moved(key: Key, steps: int, count: int) -> Key:
    """The key of the row `steps` further on."""
    row = (_row(key) + steps) % count
    return (key[0], row) if isinstance(key, tuple) else row


def _as_it_is(parcel: Any) -> Any:
    return parcel


def _lost_processes(error: RuntimeError) -> list[int]:
    """The process ids in the message of their death; any other error goes on its way."""
    if not str(error).startswith(DEATH):
        raise error
    return [int(pid) for pid in re.findall(r"\d+", str(error))]


def _pids(slate: torch.Tensor) -> set[int]:
    return set(slate[:, PID].tolist()) - {NOWHERE}


def _kill(slate: torch.Tensor) -> None:
    """End the processes on a slate, also those that hang. They only read, and no other signal reaches them."""
    for process in _children(slate):
        process.kill()


def _children(slate: torch.Tensor) -> list[Any]:
    """The processes on a slate that are alive."""
    return [process for process in multiprocessing.active_children() if process.pid in _pids(slate)]


def _dead(slate: torch.Tensor) -> set[int]:
    return _pids(slate) - {child.pid for child in _children(slate)}


def _set_child_handler(handler: Any) -> Any:
    """Let `handler` see the deaths of children, and give the one before; only a main thread can."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)


def _sentence(problems: Sequence[Problem], what: str, times: int) -> str:
    where = "; ".join(map(str, problems)) or f"a loading process {what} between two images"
    again = f" (loading processes were lost {times} times)" if times > 1 else ""
    fix = _memory_fix() if "killed" in what else "mend the file or its disk"
    return f"{where}{again}; {fix}, or set data.on_error=skip to go on without the image"


def _memory_fix() -> str:
    left = shared_memory_left()
    if left < LITTLE_SHARED_MEMORY:
        return (
            f"shared memory ({SHARED_MEMORY}) has {left / 2**20:.0f} MB left: start the container with --shm-size=2g, "
            "or set data.workers=0"
        )
    return "often memory runs out: lower data.workers"
