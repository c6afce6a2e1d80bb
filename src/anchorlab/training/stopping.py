"""Graceful stopping on a signal: the training loop ends at the next moment when nothing would be lost.

Ctrl-C, a scheduler that takes the machine back, a terminal that closes. What cannot be asked (SIGKILL, a power
cut) is not this file's matter: files that are whole at any moment are (runs/files.py, checkpoints.py).
"""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from anchorlab.training.processes import process_rank

# Before a job's time is up, Slurm sends SIGUSR1 if told to, and SIGUSR2 in a sweep (submitit tells it). Windows has
# neither them nor SIGHUP.
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Stopped(BaseException):
    """The run ends here because of a signal. No `Exception`: what catches those must not go on after it."""

    def __init__(self, signal_number: int) -> None:
        self.signal = signal.Signals(signal_number)
        super().__init__(f"stopped by {self.signal.name}")

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it: 130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1."""
        return 128 + self.signal


class StopRequest:
    """Takes the signals of this process for as long as its `with` block lasts.

    A signal raises `Stopped` at once, until `be_patient`: from then on it is kept in `signal` for the training
    loop to see, and only a second Ctrl-C raises.

    Args:
        ends_process: after a block that came to its end, the process does nothing more, and signals are ignored: what
            is finished must not look stopped to who reads the exit code.
    """

    def __init__(self, ends_process: bool = False) -> None:
        self.signal = 0
        self._ends_process = ends_process
        self._patient = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            # None: not Python's to put back. What `nohup` or a background shell has set to be ignored stays so.
            self._before = {n: handler for n, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
        self.take_signals()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_IGN if kind is None and self._ends_process else before)

    def be_patient(self) -> None:
        """From now on somebody looks at `signal` every few seconds."""
        self._patient = True
        self.take_signals()

    def take_signals(self) -> None:
        """Make the handlers this object's, also after Lightning has put its own in their place.

        Lightning's SIGTERM handler broadcasts from inside the handler, which may meet another collective under
        way and hang.
        """
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.signal == signal.SIGINT == number
        self.signal = number
        if again or not self._patient:
            raise Stopped(number)
        if number == signal.SIGINT and sys.stderr.isatty() and process_rank() == 0:
            print("\nstopping after this step; Ctrl-C again: at once", file=sys.stderr)
