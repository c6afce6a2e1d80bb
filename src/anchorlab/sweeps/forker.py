"""Forker: one process that has imported what a training imports, and forks a process for every job of a sweep.

    python -m anchorlab.sweeps.forker

A job is a process of its own as before: a crash ends that job alone, its exit code and its signals are its own. Only
the seconds that a new interpreter spends importing torch are spent once. Nothing else is shared: the forker reads no
data, draws no random number, starts no thread and touches no GPU, so that a job computes what it would have alone.

`Forker` is the sweep's end of it; the program itself stands below.
"""

import contextlib
import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from anchorlab.config.settings import check_signatures
from anchorlab.deferred import defer
from anchorlab.errors import SettingError

PR_SET_PDEATHSIG = 1
MESSAGE = 1 << 20  # bytes, more than the command and environment of a job


class Forker:
    """Starts processes of one kind of command, from a process that is started with the first of them.

    Args:
        modules: imported before the first job: the command's, and what it imports in its course.
        config: the classes that it names are imported, too; of the first job, whose others are mostly alike.
        environment: of the forker; a job gets its own.
    """

    def __init__(
        self, modules: Sequence[str], config: Mapping[str, Any], environment: Mapping[str, str], cwd: Path
    ) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=cwd,
                env=environment,
                pass_fds=(theirs.fileno(),),
                preexec_fn=_begin,
            )
        interruptible = signal.getsignal(signal.SIGINT) != signal.SIG_IGN
        self._socket.send(
            json.dumps({"modules": list(modules), "config": config, "interruptible": interruptible}).encode()
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(
        self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], stderr: int, kept: int
    ) -> "Forked | None":
        """Start `python <arguments>` in `cwd`; None where the forker has ended, which says why on the screen.

        Args:
            stderr: descriptor of what becomes the process's standard error; standard output is the sweep's own.
            kept: a further descriptor that the process keeps open until it ends.
        """
        order = {"arguments": list(arguments), "cwd": str(cwd), "environment": dict(environment)}
        try:
            socket.send_fds(self._socket, [json.dumps(order).encode()], [stderr, kept])
            answer = self._socket.recv(MESSAGE)
        except OSError:
            return None
        return Forked(int(answer), self._socket) if answer else None

    def close(self) -> None:
        """End the forker; a job that still runs ends with it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


class Forked:
    """A process of the forker's, as `subprocess.Popen` has one."""

    def __init__(self, pid: int, answers: socket.socket) -> None:
        self.pid = pid
        self._answers = answers
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal; that of a lost forker's job is -9, which it dies of.

        Raises:
            TimeoutExpired: after `timeout` seconds.
        """
        if self._code is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            answer = self._answers.recv(MESSAGE)
            self._code = int(answer) if answer else -signal.SIGKILL
        return self._code

    def kill(self) -> None:
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)


def end_with_parent() -> None:
    """In a new process: the kernel is to kill it when the process that waits for it is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _begin() -> None:
    """In the forker's process: Ctrl-C is for the sweep and the job."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def main() -> None:
    """Of the program: import, then fork for each order and answer with the new process's number and its exit code."""
    orders = socket.socket(fileno=int(sys.argv[1]))
    plan = json.loads(orders.recv(MESSAGE))
    _import(plan["modules"], plan["config"])
    while True:
        message, descriptors, _, _ = socket.recv_fds(orders, MESSAGE, maxfds=2)
        if not message:
            os._exit(0)
        child = os.fork()
        if child == 0:
            orders.close()
            if plan["interruptible"]:  # what a shell has in the background ignores Ctrl-C, and so do its jobs
                signal.signal(signal.SIGINT, signal.default_int_handler)
            _become(json.loads(message), *descriptors)
            return  # ends like any program: with what is registered for its end
        for descriptor in descriptors:
            os.close(descriptor)
        orders.send(str(child).encode())
        _, status = os.waitpid(child, 0)
        orders.send(str(os.waitstatus_to_exitcode(status)).encode())


def _import(modules: Sequence[str], config: Mapping[str, Any]) -> None:
    """All that the command imports with this config."""
    defer()
    for name in modules:
        import_module(name)
    with contextlib.suppress(SettingError):  # the job says it, in its own words and place
        check_signatures(config)
    gc.collect()
    gc.freeze()  # a collection in a job does not touch, and so copy, what all share


def _become(order: Mapping[str, Any], stderr: int, kept: int) -> None:
    """Run the order's command in this new process as an interpreter of its own would."""
    end_with_parent()
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["cwd"])
    os.dup2(stderr, sys.stderr.fileno())
    os.close(stderr)
    os.set_inheritable(kept, True)  # as one handed over at a start is: processes of the job keep it, too
    first, *rest = order["arguments"]
    if first == "-m":
        module, *rest = rest
        sys.argv = [module, *rest]
        sys.path[0] = order["cwd"]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        sys.path[0] = str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    main()
