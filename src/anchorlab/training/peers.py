"""The other processes of one run: how each of them ended, and which one no longer answers. Computes nothing together.

torch's collectives wait for a process that ended or hangs, and then report an address. Processes that torchrun or srun
started therefore leave notes for each other in a store of their own: that they have come, and how they ended. A note
outlives its process, as long as the first process of the run does.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any

import torch.distributed as dist
from torch.distributed import (
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage]
    TCPStore,  # pyright: ignore[reportPrivateImportUsage]
)

from anchorlab.errors import RunError
from anchorlab.signatures import shown
from anchorlab.training.environments import SrunEnvironment
from anchorlab.training.processes import process_rank, started_processes, this_machine, torchrun_processes

ANSWER_SECONDS = 10
"""What a process that lost another gets to say so, and a store to answer."""

STEP_SECONDS = 0.2

GLOO_SAYS = ("gloo", "Application timeout caused pair closure")
"""In its errors: the names of its files, or the sentence of a process that went on after the others had given up."""


class LostProcessError(RunError):
    """Another process of the run ended or does not answer: says which one, where, and what it said last.

    Args:
        is_mine_to_say: whether this process, of all that are left, is the one that prints it.
    """

    def __init__(self, sentence: str, is_mine_to_say: bool = True) -> None:
        super().__init__(sentence)
        self.is_mine_to_say = is_mine_to_say


class Peers:
    """The notes of the processes that torchrun or srun started for this run.

    Args:
        address: host and port of the store that Lightning's process group uses, too.
        rank: of this process; world: how many there are.
        hosts_store: whether the store lives in this process, and ends with it.
    """

    def __init__(self, address: tuple[str, int], rank: int, world: int, hosts_store: bool) -> None:
        self.rank = rank
        self.world = world
        self.hosts_store = hosts_store
        self._address = address
        self._notes: Any = None
        self._hosts = dict.fromkeys(range(world), "?")

    def as_the_first(self, name: str, decide: Callable[[], Any], minutes: float) -> Any:
        """What `decide` returns on the first process: plain data, sent to all of them.

        Args:
            name: of the question, asked once in a run.

        Raises:
            LostProcessError: the first process ended before, or has not decided after so many minutes.
        """
        end = time.monotonic() + 60 * minutes
        if self.rank == 0:
            self._store(end).set(name, json.dumps(decide()))
        while not self._store(end).check([name]):
            if (note := self._read("end", 0)) is not None:
                raise LostProcessError(_ended(0, note), False)
            if time.monotonic() > end:
                raise LostProcessError(f"process 0 has not come after trainer.timeout={minutes:g} minutes")
            time.sleep(STEP_SECONDS)
        return json.loads(self._store(end).get(name))

    def meet(self, minutes: float) -> None:
        """Wait until every process has come this far.

        Raises:
            LostProcessError: one has ended, or has not come after so many minutes.
        """
        end = time.monotonic() + 60 * minutes
        self._write("came", "", end)
        missing = set(range(self.world))
        while missing:
            for rank in sorted(missing):
                if (note := self._read("came", rank)) is not None:
                    self._hosts[rank] = note["host"]
                    missing.remove(rank)
                elif (note := self._read("end", rank)) is not None and note["reason"]:
                    raise LostProcessError(_ended(rank, note), self.rank == 0)
            if missing and time.monotonic() > end:
                raise LostProcessError(
                    f"after trainer.timeout={minutes:g} minutes only {self.world - len(missing)} of {self.world} "
                    f"processes have come: without {shown(sorted(missing))}",
                    self.rank == 0,
                )
            time.sleep(STEP_SECONDS)

    def tell(self, reason: str) -> None:
        """Leave a note of why this process ends; where nobody can read it, nothing happens.

        The process whose end is that of the store waits until the others have read.
        """
        with suppress(RuntimeError, OSError):
            self._write("end", reason, time.monotonic() + ANSWER_SECONDS)
            if self.hosts_store:
                self._ends(time.monotonic() + ANSWER_SECONDS)

    def explain(self, error: BaseException) -> LostProcessError | None:
        """What is behind an error of a collective operation; None where it is none.

        Every process that is left asks at the same time, and those that do not are the lost ones.
        """
        if not _is_collective(error):
            return None
        try:
            end = time.monotonic() + ANSWER_SECONDS
            self._write("end", "", end)
            ends = self._ends(end)
        except (RuntimeError, OSError):
            return LostProcessError(f"process 0 ({self._hosts[0]}) was killed or does not answer", self.rank == 1)
        told = [_ended(rank, note) for rank, note in ends.items() if note["reason"]]
        lost = [f"process {rank} ({host})" for rank, host in self._hosts.items() if rank not in ends]
        silent = [f"{' and '.join(lost)} {'were' if len(lost) > 1 else 'was'} killed or did not answer"] if lost else []
        first_left = min(rank for rank, note in ends.items() if not note["reason"])
        return LostProcessError(
            "; ".join(told or silent) or f"the processes lost each other: {error}", self.rank == first_left
        )

    def _ends(self, until: float) -> dict[int, Any]:
        """The notes of the processes that have ended by then, or are about to."""
        ends: dict[int, Any] = {}
        while len(ends) < self.world and time.monotonic() < until:
            for rank in set(range(self.world)) - set(ends):
                if (note := self._read("end", rank)) is not None:
                    ends[rank] = note
            time.sleep(STEP_SECONDS)
        return dict(sorted(ends.items()))

    def _write(self, kind: str, reason: str, until: float) -> None:
        note = {"host": this_machine(), "reason": reason}
        self._store(until).set(f"{kind}/{self.rank}", json.dumps(note))

    def _read(self, kind: str, rank: int) -> Any:
        key, store = f"{kind}/{rank}", self._store(time.monotonic())
        return json.loads(store.get(key)) if store.check([key]) else None

    def _store(self, until: float) -> Any:
        """Opened when first used, where it is there by then: the first process may still be reading its data."""
        if self._notes is None:
            while not self.hosts_store and not _listens(self._address) and time.monotonic() < until:
                time.sleep(STEP_SECONDS)  # not in torch's own wait: no signal gets through to it
            if not self.hosts_store and not _listens(self._address):
                raise LostProcessError(f"process 0 does not answer at {self._address[0]}:{self._address[1]}")
            store = TCPStore(
                *self._address,
                self.world,
                is_master=self.hosts_store,
                timeout=timedelta(seconds=ANSWER_SECONDS),
                wait_for_workers=False,
                multi_tenant=True,  # the process group opens the same one
            )
            self._notes = PrefixStore(f"anchorlab/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        return self._notes


@cache
def peers() -> Peers | None:
    """Those of this process, always the same; None where neither torchrun nor srun started several."""
    world, rank = started_processes(), process_rank()
    if world == 1:
        return None
    if torchrun_processes() is None:
        environment = SrunEnvironment()
        return Peers((environment.main_address, environment.main_port), rank, world, rank == 0)
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return Peers(address, rank, world, rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True")


def _ended(rank: int, note: dict[str, str]) -> str:
    return f"process {rank} ({note['host']}) ended: {note['reason']}"


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


def _is_collective(error: BaseException) -> bool:
    """Whether torch raised it because another process was not there: gloo has no class of its own for that."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in GLOO_SAYS)
