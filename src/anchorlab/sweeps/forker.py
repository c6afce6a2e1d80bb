"""Forker: one process that has imported what a sweep's processes import, and forks each of them.

    python -m anchorlab.sweeps.forker

These are its jobs, and before them the programs that look at its settings and describe its configurations (`ask`). Each
is a process of its own: a crash ends that job alone, its exit code and its signals are its own, and its memory is free
when it ends. Only the seconds that a new interpreter spends importing torch are spent once. Nothing else is shared: the
forker reads no data, draws no random number, starts no thread and touches no GPU, so that a job computes what it would
have alone.

`Forker` is the sweep's end of it; the program itself stands below.
"""

import atexit
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
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from anchorlab.config.declared import targets
from anchorlab.config.settings import check_signatures
from anchorlab.deferred import defer
from anchorlab.errors import SettingError

PR_SET_PDEATHSIG = 1
MESSAGE = 1 << 20  # bytes, more than the command and environment of a job
LINUX = sys.platform == "linux"
_shared: "Forker | None" = None


class Forker:
    """Starts processes that have imported what they need before they begin.

    Args:
        environment: of the forker; a process gets its own.
    """

    def __init__(self, environment: Mapping[str, str], cwd: Path) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=cwd,
                env=environment,
                pass_fds=(theirs.fileno(),),
                preexec_fn=_begin,
            )
        self._imported: set[str] = set()

    @property
    def pid(self) -> int:
        return self._process.pid

    def imports(self, modules: Sequence[str], config: Mapping[str, Any]) -> None:
        """Have all further processes begin with these modules, and with the classes that a config names, imported."""
        names = {*modules, *map(str, targets(config))}
        if names <= self._imported:
            return
        self._imported |= names
        with contextlib.suppress(OSError):  # it has ended: so says `start`
            self._socket.send(json.dumps({"modules": list(modules), "config": config, "path": sys.path[0]}).encode())

    def start(
        self,
        arguments: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        streams: Mapping[int, int],
        kept: Sequence[int] = (),
        interruptible: bool = True,
    ) -> "Forked | None":
        """Start `python <arguments>` in `cwd`; None where the forker has ended, which says why on the screen.

        Args:
            streams: by number (0, 1, 2), descriptors of what becomes the process's standard input, output and error;
                those not given are the forker's own.
            kept: further descriptors that the process keeps open until it ends.
            interruptible: Ctrl-C reaches the process too, where it reaches this one.
        """
        order = {
            "arguments": list(arguments),
            "cwd": str(cwd),
            "path": sys.path[0],
            "environment": dict(environment),
            "streams": list(streams),
            "interruptible": interruptible and signal.getsignal(signal.SIGINT) != signal.SIG_IGN,
        }
        try:
            socket.send_fds(self._socket, [json.dumps(order).encode()], [*streams.values(), *kept])
            answer = self._socket.recv(MESSAGE)
        except OSError:
            return None
        return Forked(int(answer), self._socket) if answer else None

    def close(self) -> None:
        """End the forker; a job that still runs ends with it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def shared() -> Forker | None:
    """The forker of this process, which is started with the first call; None where there can be none."""
    global _shared
    if _shared is None and LINUX:
        _shared = Forker(os.environ, Path.cwd())
        atexit.register(end_shared)
    return _shared


def end_shared() -> None:
    """End this process's forker; the next call of `shared` starts another."""
    global _shared
    if _shared is not None:
        _shared.close()
        _shared = None


def ask(module: str, question: Any, config: Mapping[str, Any]) -> Any:
    """What the `main` of a module of ours answers in a process of its own: JSON on standard input, JSON on its output.

    Args:
        config: whose classes the program needs, and programs after it.

    Raises:
        RuntimeError: where the process breaks off.
    """
    command = ["-c", f"from {module} import main; main()"]
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answered:
        asked.write(json.dumps(question).encode())
        asked.seek(0)
        code = _ended(command, config, asked.fileno(), answered.fileno())
        if code != 0:
            raise RuntimeError(f"{module} ended with exit code {code}")
        answered.seek(0)
        return json.load(answered)


def _ended(command: Sequence[str], config: Mapping[str, Any], read: int, written: int) -> int:
    """The exit code of `python <command>` that reads and writes these descriptors."""
    if (forker := shared()) is not None:
        forker.imports([], config)
        forked = forker.start(command, Path.cwd(), os.environ, {0: read, 1: written}, interruptible=False)
        if forked is not None:
            return forked.wait()
        end_shared()
    return subprocess.run([sys.executable, *command], stdin=read, stdout=written, check=False).returncode


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
    """Of the program: import what it is told to; fork for each order, and answer with the new process's number and its
    exit code."""
    orders = socket.socket(fileno=int(sys.argv[1]))
    defer()
    while True:
        message, descriptors, _, _ = socket.recv_fds(orders, MESSAGE, maxfds=4)
        if not message:
            os._exit(0)
        order = json.loads(message)
        if "modules" in order:
            _import(**order)
            continue
        child = os.fork()
        if child == 0:
            orders.close()
            _become(order, descriptors)
            return  # ends like any program: with what is registered for its end
        for descriptor in descriptors:
            os.close(descriptor)
        orders.send(str(child).encode())
        _, status = os.waitpid(child, 0)
        orders.send(str(os.waitstatus_to_exitcode(status)).encode())


def _import(modules: Sequence[str], config: Mapping[str, Any], path: str) -> None:
    """All that a command imports with this config."""
    sys.path[0] = path
    for name in modules:
        import_module(name)
    with contextlib.suppress(SettingError):  # the job says it, in its own words and place
        check_signatures(config)
    sys.stdout.flush()  # what a module of one's own has printed, which each new process would say again
    gc.collect()
    gc.freeze()  # a collection in a job does not touch, and so copy, what all share


def _become(order: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Run the order's command in this new process as an interpreter of its own would."""
    end_with_parent()
    if order["interruptible"]:  # what a shell has in the background ignores Ctrl-C, and so do its jobs
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["cwd"])
    streams = order["streams"]
    for number, descriptor in zip(streams, descriptors, strict=False):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for descriptor in descriptors[len(streams) :]:
        os.set_inheritable(descriptor, True)  # as one handed over at a start is: processes of the job keep it, too
    first, *rest = order["arguments"]
    sys.path[0] = order["path"]
    if first == "-c":
        program, *rest = rest
        sys.argv = [first, *rest]
        exec(program, {"__name__": "__main__"})
    elif first == "-m":
        module, *rest = rest
        sys.argv = [module, *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        sys.path[0] = str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    main()
