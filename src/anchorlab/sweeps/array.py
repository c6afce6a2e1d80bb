"""Jobs that submitit runs beside each other, on Slurm as an array: hands them over, and tries a lost one once more.

A job is lost when it ended and nothing in its folder says how: killed where memory ran out, or with its machine.
Hydra's own launcher raises at the first of them and leaves the others behind. Chooses no jobs, and changes nothing of
what they ask for: the strategy does, and the launcher's settings.
"""

import getpass
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton

from anchorlab.console import console
from anchorlab.sweeps.folder import SweepFolder
from anchorlab.sweeps.jobs import Job, ask_to_stop, outcome

if TYPE_CHECKING:
    from submitit import Job as Submitted

LONGEST_PAUSE = 30
"""Seconds between two questions to the queue, at most; one question asks for all jobs."""
LATE_FILES = 15
"""Seconds after which a file system shows what another machine wrote before."""
SECOND_THOUGHTS = 5
"""Seconds in which a second Ctrl-C cancels the jobs."""


class Task:
    """What runs in the queue: one job by Hydra's launcher, which keeps a checkpoint where its time is nearly up."""

    def __init__(self, launcher: Any) -> None:
        self._launcher = launcher

    def __call__(self, overrides: Sequence[str], number: int, singletons: Mapping[Any, Any]) -> None:
        self._launcher(list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", singletons)

    def checkpoint(self, *arguments: Any) -> Any:
        """submitit calls it in the job when its time is nearly up, before it puts it back into the queue."""
        from submitit.helpers import DelayedSubmission

        ask_to_stop()
        return DelayedSubmission(self, *arguments)


class Queue:
    """submitit's processes on this machine, which Ctrl-C reaches by itself."""

    def __init__(self, launcher: Any) -> None:
        self._launcher = launcher
        self._submitted: list[Submitted[Any]] = []

    def submit(self, commands: Mapping[Job, Sequence[str]]) -> dict[str, Job]:
        """Hand jobs over; their numbers in the queue."""
        import submitit
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

        # As Hydra's launcher does (hydra_submitit_launcher 1.2), which would wait in its own way.
        of_every_queue = {field.name for field in fields(BaseQueueConf)}
        settings = dict(self._launcher.params)
        cluster, place = self._launcher._EXECUTOR, settings.pop("submitit_folder")
        timeouts = {f"{cluster}_{key}": settings.pop(key) for key in ("max_num_timeout",) if key in settings}
        executor = submitit.AutoExecutor(cluster=cluster, folder=place, **timeouts)
        executor.update_parameters(
            **{key if key in of_every_queue else f"{cluster}_{key}": value for key, value in settings.items()}
        )
        numbers = [job.number for job in commands]
        singletons = [Singleton.get_state()] * len(commands)
        submitted = executor.map_array(Task(self._launcher), commands.values(), numbers, singletons)
        self._submitted += submitted
        return {handle.job_id: job for handle, job in zip(submitted, commands, strict=True)}

    def holds(self) -> set[str] | None:
        """The numbers of all jobs that wait or run; None: the queue does not answer."""
        return {handle.job_id for handle in self._submitted if not handle.done()}

    def end_of(self, number: str) -> str:
        """What the queue says of a job that ended without a word; "" for nothing."""
        return ""

    def offer_to_cancel(self, left: Mapping[str, Job]) -> None:
        """After Ctrl-C: say what becomes of the jobs that have not ended."""


class SlurmQueue(Queue):
    """Slurm's, by squeue: it is there on every cluster, with accounting or without."""

    def submit(self, commands: Mapping[Job, Sequence[str]]) -> dict[str, Job]:
        started = super().submit(commands)
        array = next(iter(started)).partition("_")[0]
        count = f"{len(started)} job{'s' * (len(started) != 1)}"
        console().print(f"Slurm job {array}: {count} in the queue; scancel {array} ends them", soft_wrap=True)
        return started

    def holds(self) -> set[str] | None:
        command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return set(done.stdout.split()) if done.returncode == 0 else None

    def end_of(self, number: str) -> str:
        """The job's state, which slurmctld forgets after some minutes (MinJobAge)."""
        command = ["scontrol", "--oneliner", "show", "job", number]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        words = done.stdout.split() if done.returncode == 0 else []
        return next((f"Slurm: {word.partition('=')[2]}" for word in words if word.startswith("JobState=")), "")

    def offer_to_cancel(self, left: Mapping[str, Job]) -> None:
        """They go on; a second Ctrl-C cancels them."""
        arrays = sorted({number.partition("_")[0] for number in left}, key=int)
        jobs = _listed(left.values())
        console().print(
            f"\n{jobs} go on in Slurm's queue; scancel {' '.join(arrays)}, or Ctrl-C again, cancels them",
            markup=False,
            soft_wrap=True,
        )
        try:
            time.sleep(SECOND_THOUGHTS)
        except KeyboardInterrupt:
            subprocess.run(["scancel", *left], check=False)
            console().print(f"cancelled: {jobs}", markup=False, soft_wrap=True)


def takes(launcher: Any) -> bool:
    """Whether `run` can do what this launcher of Hydra would."""
    return type(launcher).__name__ in QUEUES


def run(launcher: Any, folder: SweepFolder, commands: Mapping[Job, Sequence[str]]) -> dict[Job, str]:
    """Run jobs with their command lines, and wait for the end of each; a lost one is run once more.

    A job that an earlier process of this sweep submitted, and that still waits or runs, is waited for.

    Returns:
        The jobs that were lost for good, with what is known of why.

    Raises:
        KeyboardInterrupt: the jobs in Slurm's queue go on, unless a second Ctrl-C cancels them.
    """
    return _Array(QUEUES[type(launcher).__name__](launcher), folder, commands).run()


QUEUES = {"SlurmLauncher": SlurmQueue, "LocalLauncher": Queue}
"""By the class of Hydra's launcher, which is not imported here."""


class _Array:
    """The jobs of one `run`, and where each is."""

    def __init__(self, queue: Queue, folder: SweepFolder, commands: Mapping[Job, Sequence[str]]) -> None:
        self._queue = queue
        self._folder = folder
        self._commands = commands
        self._left: dict[str, Job] = {}  # by their number in the queue
        self._written: dict[Job, int] = {}  # when a job's record was written last, before it was submitted
        self._lost_before: set[Job] = set()

    def run(self) -> dict[Job, str]:
        lost: dict[Job, str] = {}
        self._adopt()
        self._submit([job for job in self._commands if job not in self._left.values()])
        started, silent = time.monotonic(), False
        try:
            while self._left:
                held = self._queue.holds()
                if held is None and not silent:
                    console().print("squeue does not answer; asked again until it does")
                silent = held is None
                lost |= self._take(held) if held is not None else {}
                if self._left:
                    time.sleep(min(LONGEST_PAUSE, 1 + (time.monotonic() - started) / 10))
        except KeyboardInterrupt:
            if self._left:
                self._queue.offer_to_cancel(self._left)
            raise
        return lost

    def _adopt(self) -> None:
        """Find the jobs that an earlier process submitted, as far as they have not ended."""
        numbers = {listed["number"]: listed["queued"] for listed in self._folder.jobs if "queued" in listed}
        before = {numbers[job.number]: job for job in self._commands if job.number in numbers}
        held = self._queue.holds() or set() if before else set()
        self._left = {number: job for number, job in before.items() if number in held}
        if self._left:
            console().print(f"{_listed(self._left.values())}: still in the queue", soft_wrap=True)

    def _submit(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        self._written |= {job: self._last_written(job) for job in jobs}
        started = self._queue.submit({job: self._commands[job] for job in jobs})
        self._left |= started
        numbers = {job.number: number for number, job in started.items()}
        for listed in self._folder.jobs:
            if listed["number"] in numbers:
                listed["queued"] = numbers[listed["number"]]
        self._folder.write()

    def _take(self, held: set[str]) -> dict[Job, str]:
        """Look at the jobs that have left the queue: those lost for the first time are submitted again."""
        gone = {number: self._left.pop(number) for number in [*self._left] if number not in held}
        lost, again = {}, []
        for number, job in self._silent(gone).items():
            state = self._queue.end_of(number)
            reason = f"lost ({state})" if state else "lost"
            if job in self._lost_before or "CANCELLED" in state:
                lost[job] = reason
                continue
            console().print(f"job {job.number} {reason}; tried once more", markup=False, soft_wrap=True)
            again.append(job)
        self._lost_before |= {*again}
        self._submit(again)
        return lost

    def _silent(self, gone: Mapping[str, Job]) -> dict[str, Job]:
        """Those in whose folders nothing says how they ended."""
        until, silent = time.monotonic() + LATE_FILES, dict(gone)
        while silent := {number: job for number, job in silent.items() if not self._said_how(job)}:
            if time.monotonic() > until:
                break
            time.sleep(1)
        return silent

    def _said_how(self, job: Job) -> bool:
        end = outcome(self._folder.path / str(job.number))
        return end.has_ended and self._last_written(job) != self._written.get(job)

    def _last_written(self, job: Job) -> int:
        path = self._folder.path / str(job.number) / "run.json"
        return path.stat().st_mtime_ns if path.exists() else 0


def _listed(jobs: Iterable[Job]) -> str:
    numbers = [str(job.number) for job in jobs]
    return f"job{'s' * (len(numbers) != 1)} {', '.join(numbers)}"
