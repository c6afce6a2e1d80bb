"""All loggers of a run behind one of Lightning's: passes on what is logged, and keeps their failures from it.

Each logger has a thread and a queue, so that a training waits for none of them but at its start (`START_SECONDS`) and
at its end (`FINISH_SECONDS`). A logger that raises is told nothing more, and the screen says so in one sentence.
metrics.csv is no such logger but part of the run's record: where it cannot be written, the run ends.
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from anchorlab.build import build
from anchorlab.errors import SettingError
from anchorlab.plots.scene import Scene
from anchorlab.training.loggers.csv import CSVLogger
from anchorlab.training.loggers.protocol import End, Row, RunFacts, RunLogger

START_SECONDS = 15
FINISH_SECONDS = 10

Call = Callable[[RunLogger], None]


def build_loggers(group: Mapping[str, Any]) -> list[RunLogger]:
    """The loggers of the config group `logger`, on the first process only: the choice itself, and those named in it.

    `logger='[wandb,tensorboard]'` is one choice with keys in the group itself and one with its own in
    `logger.tensorboard`.

    Raises:
        SettingError: a class that is no RunLogger, or arguments that one refuses.
    """
    if rank_zero_only.rank != 0:
        return []
    inner = {key: value for key, value in group.items() if isinstance(value, Mapping) and "_target_" in value}
    outer = {key: value for key, value in group.items() if key not in inner}
    choices = {"logger": outer} | {f"logger.{name}": choice for name, choice in inner.items()}
    return [_logger(choice, key) for key, choice in choices.items() if choice.get("_target_") is not None]


def _logger(choice: Mapping[str, Any], key: str) -> RunLogger:
    logger = build(choice, key)
    if not isinstance(logger, RunLogger):
        raise SettingError(
            f"{key}._target_={choice['_target_']} is no logger: derive its class from "
            f"anchorlab.training.loggers.protocol.RunLogger"
        )
    return logger


class Loggers(Logger):
    """What the Trainer and callbacks log to, on the first process; others have an empty one.

    Rows reach metrics.csv at once, other loggers when `checkpointed` says that no resume will take them back: a killed
    and resumed run then has each row once, everywhere.

    Args:
        loggers: as the config chose them. Where there are any, metrics.csv is written as well.
    """

    def __init__(self, loggers: Sequence[RunLogger]) -> None:
        super().__init__()
        own = [logger for logger in loggers if isinstance(logger, CSVLogger)] or [CSVLogger()]
        self._csv = own[0] if loggers else None
        self._threads = [_Called(logger) for logger in loggers if logger not in own]
        self._rows: list[Row] = []
        self._held: list[Call] = []
        self._ended = False

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def start(self, run: RunFacts, behind: bool = False) -> None:
        """Start every logger.

        Args:
            behind: those that training does not depend on wait for `start_waiting`: importing W&B takes a second.

        Raises:
            SettingError: a required one refused.
        """
        if self._csv is not None:
            self._csv.start(run)
        for thread in self._threads:
            thread.begin(run, behind)

    def start_waiting(self) -> list[tuple[str, str]]:
        """Start those that `start` has left waiting, and wait for them as it would have; their notices."""
        waiting = [thread for thread in self._threads if thread.waits]
        for thread in waiting:
            thread.go()
        return [(thread.title, text) for thread in waiting if (text := thread.notice())]

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: `start` has given them the config."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._csv is None or self._ended:
            return
        row = {"step": 0 if step is None else step, **metrics}
        self._csv.row(len(self._rows), row)
        self._rows.append(row)
        index, shown = len(self._rows) - 1, defined(row)
        self._held.append(lambda logger: logger.row(index, shown))

    def log_picture(self, key: str, scene: Scene, top: int) -> None:
        self._held.append(lambda logger: logger.picture(key, scene, top))

    def log_image(self, key: str, path: Path) -> None:
        self._held.append(lambda logger: logger.image(key, path))

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._held.append(lambda logger: logger.table(key, columns, rows))

    def log_timings(self, timings: Mapping[str, float]) -> None:
        self._held.append(lambda logger: logger.timings(timings))

    def checkpointed(self) -> None:
        """A resume would go on behind all that was logged until now: loggers may have it."""
        held, self._held = self._held, []
        for thread in self._threads:
            for call in held:
                thread.call(call)

    def epoch_begins(self) -> None:
        """Nothing will be added any more to the last row that loggers have."""
        for thread in self._threads:
            thread.call(lambda logger: logger.row_complete())

    def cut_back(self, step: int, scored_step: int | None) -> None:
        """On resume: forget what was logged after the checkpoint of these steps and of this last validation."""
        if self._csv is None:
            return
        self._rows = list(self._csv.cut_back(step, scored_step))
        rows = [defined(row) for row in self._rows]
        for thread in self._threads:
            thread.call(lambda logger: logger.resumed(rows))

    def notices(self) -> list[tuple[str, str]]:
        """For the screen: each logger's name, and its one line."""
        return [(thread.title, text) for thread in self._threads if (text := thread.notice())]

    def finish(self, end: End) -> list[tuple[str, str]]:
        """End all loggers, the first time that it is called.

        Returns:
            A line for each that could not do its work.
        """
        if not self._ended:
            self._ended = True
            self.start_waiting()
            if end == "finished":
                self.checkpointed()
            for thread in self._threads:
                thread.end(end)
            self._wait()
        failed = [thread for thread in self._threads if thread.failure and not thread.refused]
        return [(thread.title, thread.failure) for thread in failed]

    def _wait(self) -> None:
        """For all of them together; a signal that ends the waiting ends them too, so that the process can."""
        latest = time.monotonic() + FINISH_SECONDS
        running = [thread for thread in self._threads if thread.runs]
        try:
            for thread in running:
                thread.wait(max(0.0, latest - time.monotonic()))
        except BaseException:
            for thread in running:
                thread.abandon("was not waited for")
            raise


def loggers_of(trainer: Trainer) -> Loggers:
    """Where a callback logs to; one without loggers where the Trainer has none of ours."""
    return next((logger for logger in trainer.loggers if isinstance(logger, Loggers)), Loggers([]))


class _Called:
    """One logger, called from a thread of its own for as long as it raises nothing."""

    def __init__(self, logger: RunLogger) -> None:
        self._logger = logger
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._started, self._over = threading.Event(), threading.Event()
        self._raised: BaseException | None = None
        self.waits = False  # to be started
        self.refused = False  # a required one: its sentence ends the run
        self.title = logger.title or type(logger).__name__
        self.failure = ""
        self._left = False  # abandoned: what it raises from then on comes of that
        # A daemon: one that hangs does not keep the process from ending.
        self._thread = threading.Thread(target=self._loop, name=self.title, daemon=True)

    def begin(self, run: RunFacts, behind: bool = False) -> None:
        """Start the logger; `behind`: not before `go`, where it has a thread and is not required."""
        self.call(lambda logger: logger.start(run))
        if behind and self._logger.in_background and not self._logger.required:
            self.waits = True
            return
        in_time = self.go()
        if self._logger.required and (self._raised is not None or not in_time):
            self.refused = True
            late = f"{self._logger.required}: {self.title} did not start within {START_SECONDS} s"
            raise SettingError(str(self._raised or late))

    def go(self) -> bool:
        """Start the thread; whether the logger has started in time."""
        self.waits = False
        if not self._logger.in_background:
            return True
        self._thread.start()
        return self._started.wait(START_SECONDS)

    def call(self, call: Call) -> None:
        self._do(lambda: None if self.failure else self._make(call))

    def end(self, end: End) -> None:
        """Also of one that has failed: it closes what it has open."""
        self._do(lambda: self._make(lambda logger: self._finished(logger.finish(end))))
        self._work.put(None)

    def wait(self, seconds: float) -> None:
        """Until the logger has ended, or time is up."""
        if not self._over.wait(seconds):
            self.abandon(f"did not finish within {FINISH_SECONDS} s")

    def abandon(self, why: str) -> None:
        """Leave the logger to itself, unless it has ended."""
        if not self._over.is_set():
            self._left = True
            advice = _answer(self._logger.abandoned)
            self.failure = self.failure or f"{why}; {advice}".rstrip("; ")

    def notice(self) -> str:
        if self.failure or self.waits:
            return self.failure
        if self._logger.in_background and not self._started.is_set():
            return f"has not started after {START_SECONDS} s; training does not wait for it"
        return _answer(self._logger.notice)

    @property
    def runs(self) -> bool:
        """Whether it has a thread to wait for."""
        return self._thread.ident is not None

    def _do(self, work: Callable[[], None]) -> None:
        if self._logger.in_background:
            self._work.put(work)
        else:
            work()

    def _finished(self, failure: str | None) -> None:
        self.failure = self.failure or failure or ""

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            self._started.set()
        self._over.set()

    def _make(self, call: Call) -> None:
        try:
            call(self._logger)
        except (Exception, SystemExit) as error:  # a logger may raise whatever it likes, the training goes on
            self._raised = error
            if not self._left:
                self.failure = self.failure or f"stopped logging ({_sentence(error)}); metrics.csv has every metric"


def _answer(question: Callable[[], str]) -> str:
    try:
        return question()
    except SystemExit:
        return ""
    except Exception as error:  # as above
        return _sentence(error)


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def defined(row: Row) -> Row:
    """A row of metrics.csv as loggers get it: without NaN, and without the -1 by which recall says that there was
    nothing to find; its epoch counted from 1."""
    metrics = {
        name: value
        for name, value in row.items()
        if math.isfinite(value) and not (value == -1 and name.startswith("val/"))
    }
    return metrics | ({"epoch": row["epoch"] + 1} if "epoch" in metrics else {})
