"""Training processes to be watched, signalled and killed; started by one that has imported everything (forker.py)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT = 300  # seconds, on a machine with more to do than this


class Forker:
    """Starts processes; ends those that still run when it is closed."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # other threads would not survive a fork
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.forker"],
            cwd=ROOT,
            env=environment | single,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started: list[Running] = []

    def start(
        self,
        folder: Path,
        *arguments: str,
        config: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        script: str = "train",
        crash_at: int | None = None,
    ) -> "Running":
        """A root script with `arguments` in `folder`; or `train` of a `config` into `folder` itself.

        crash_at: the crash point of `folder` at which it is killed, 0: at none; then its points are listed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        output = self._scratch / str(len(self._started))
        what = {"arguments": arguments, "script": script} if config is None else {"config": config}
        order = {**what, "folder": str(folder), "output": str(output), "environment": dict(environment or {})}
        order["crash_at"] = crash_at
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        running = Running(int(self._process.stdout.readline()), output)
        self._started.append(running)
        return running

    def run(
        self,
        folder: Path,
        *arguments: str,
        config: Mapping[str, Any] | None = None,
        script: str = "train",
        crash_at: int | None = None,
    ) -> "Running":
        running = self.start(folder, *arguments, config=config, script=script, crash_at=crash_at)
        running.wait()
        return running

    def start_ranks(self, world: int, folder: Path, *arguments: str) -> list["Running"]:
        """`world` processes that find in their environment what torchrun puts there."""
        port = free_port()
        return [self.start_rank(rank, world, port, folder, *arguments) for rank in range(world)]

    def start_rank(self, rank: int, world: int, port: int, folder: Path, *arguments: str) -> "Running":
        environment = {
            "TORCHELASTIC_RUN_ID": "test",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "GROUP_WORLD_SIZE": "1",
            "GROUP_RANK": "0",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
        return self.start(folder, *arguments, environment=environment)

    def close(self) -> None:
        for running in self._started:
            if running.code is None:
                running.send(signal.SIGKILL)
        self._process.kill()  # the end of its input may never come: loading processes of other tests hold the pipe, too
        self._process.communicate()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def family(process: int) -> list[int]:
    """A process, and all that it and its children have started; one that ends meanwhile has no more children."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        children = []
    return [process, *(member for child in children for member in family(int(child)))]


@dataclass
class Running:
    """One process of training: `out` and `err` are what it has printed so far."""

    number: int
    output: Path

    @property
    def code(self) -> int | None:
        """The exit code, negative for the signal that ended it; None while it runs."""
        path = self.output.with_suffix(".code")
        return int(path.read_text()) if path.exists() else None

    @property
    def out(self) -> str:
        return self.output.with_suffix(".out").read_text()

    @property
    def err(self) -> str:
        return self.output.with_suffix(".err").read_text()

    @property
    def points(self) -> list[str]:
        """The crash points that it has passed, where it was started with `crash_at`."""
        return self.output.with_suffix(".points").read_text().splitlines()

    def send(self, number: int, group: bool = False) -> None:
        """A signal; to the whole group as from a terminal."""
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.number, number)

    def wait(self) -> int:
        self.wait_until(lambda: self.code is not None)
        assert self.code is not None
        return self.code

    def wait_until(self, seen: Callable[[], Any]) -> None:
        """Until `seen()`, or the process has ended."""
        end = time.monotonic() + TIMEOUT
        while not seen() and self.code is None:
            assert time.monotonic() < end, f"waited {TIMEOUT} s\n{self.out}\n{self.err}"
            time.sleep(0.005)  # leaves the processor to what is waited for
