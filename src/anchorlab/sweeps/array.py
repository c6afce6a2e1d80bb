"""Jobs that submitit runs beside each other, on Slurm as an array: hands them over, and tries a lost one once more.

A job is lost when it ended and nothing in its folder says how: killed where memory ran out, or with its machine.
Hydra's own launcher raises at the first of them and leaves the others behind. Chooses no jobs, and changes nothing of
what they ask for: the strategy does, and the launcher's settings.
"""

import getpass
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hydra.core.singleton import Singleton

from anchorlab.console import console
from anchorlab.sweeps.folder import SweepFolder
from anchorlab.sweeps.jobs import Job, ask_to_stop, outcome

if TYPE_CHECKING:
    from submitit import Job as Submitted

SLURM = "SlurmLauncher"
LAUNCHERS = (SLURM, "LocalLauncher")
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


class Queue(Protocol):
    """Where submitted jobs are until they have ended."""

    def holds(self) -> set[str] | None:
        """The numbers, as the queue gives them, of all jobs that wait or run; None: it does not answer."""
        ...

    def end_of(self, number: str) -> str:
        """What the queue says of a job that ended without a word; "" for nothing."""
        ...

    def cancel(self, numbers: Sequence[str]) -> None: ...


class SlurmQueue:
    """Slurm's, by squeue: it is there on every cluster, with accounting or without."""

    def holds(self) -> set[str] | None:
        command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return set(done.stdout.split()) if done.returncode == 0 else None

    def end_of(self, number: str) -> str:
        """The job's state, which slurmctld forgets after some minutes (MinJobAge)."""
        command = ["scontrol", "--oneliner", "show", "job", number]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        words = done.stdout.split() if done.returncode == 0 else []
        return next((word.partition("=")[2] for word in words if word.startswith("JobState=")), "")

    def cancel(self, numbers: Sequence[str]) -> None:
        subprocess.run(["scancel", *numbers], check=False)


class LocalQueue:
    """submitit's processes on this machine; Ctrl-C reaches them by itself."""

    def __init__(self, submitted: "Sequence[Submitted[Any]]") -> None:
        self._submitted = submitted

    def holds(self) -> set[str] | None:
        return {job.job_id for job in self._submitted if not job.done()}

    def end_of(self, number: str) -> str:
        return ""

    def cancel(self, numbers: Sequence[str]) -> None:
        pass


@dataclass(frozen=True)
class Ended:
    """A job that left the queue. reason: why nothing in its folder says how; None: something does."""

    job: Job
    reason: str | None = None
    cancelled: bool = False


def takes(launcher: Any) -> bool:
    """Whether `run` can do what this launcher of Hydra would."""
    return type(launcher).__name__ in LAUNCHERS


def run(launcher: Any, folder: SweepFolder, commands: Sequence[tuple[Job, Sequence[str]]]) -> list[tuple[Job, str]]:
    """Run jobs with their command lines, and wait for the end of each; a lost one is run once more.

    A job that an earlier process of this sweep submitted, and that still waits or runs, is waited for.

    Returns:
        The jobs that were lost for good, with what is known of why.

    Raises:
        KeyboardInterrupt: the jobs in Slurm's queue go on, unless a second Ctrl-C cancels them.
    """
    given = dict(commands)
    lost = [end for end in _run_once(launcher, folder, list(given.items())) if end.reason is not None]
    again = [end for end in lost if not end.cancelled]
    for reason in sorted({end.reason or "" for end in again}):
        numbers = ", ".join(str(end.job.number) for end in again if end.reason == reason)
        console().print(f"job {numbers}: {reason}; tried once more", markup=False, soft_wrap=True)
    if again:
        lost = [end for end in lost if end.cancelled]
        lost += [end for end in _run_once(launcher, folder, [(end.job, given[end.job]) for end in again]) if end.reason]
    return [(end.job, end.reason or "") for end in lost]


def _run_once(launcher: Any, folder: SweepFolder, commands: Sequence[tuple[Job, Sequence[str]]]) -> list[Ended]:
    in_slurm = type(launcher).__name__ == SLURM
    waiting = _still_queued(folder, [job for job, _ in commands]) if in_slurm else {}
    if waiting:
        console().print(f"waiting for {len(waiting)} jobs of before, still in Slurm's queue", soft_wrap=True)
    new = [(job, command) for job, command in commands if job not in waiting.values()]
    before = {job: _written(folder.path, job) for job, _ in new}
    submitted = _submit(launcher, new) if new else []
    started = {job.job_id: of for job, (of, _) in zip(submitted, new, strict=True)}
    if in_slurm:
        _note_numbers(folder, started)
    if in_slurm and started:
        array = next(iter(started)).partition("_")[0]
        count = f"{len(started)} job{'s' * (len(started) != 1)}"
        console().print(f"Slurm job {array}: {count} in the queue; scancel {array} ends them", soft_wrap=True)
    queue: Queue = SlurmQueue() if in_slurm else LocalQueue(submitted)
    return _wait(queue, folder.path, waiting | started, before)


def _submit(launcher: Any, commands: Sequence[tuple[Job, Sequence[str]]]) -> "list[Submitted[Any]]":
    """As Hydra's launcher does (hydra_submitit_launcher 1.2), which would wait in its own way."""
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    of_every_queue = {field.name for field in fields(BaseQueueConf)}
    settings = dict(launcher.params)
    cluster, place = launcher._EXECUTOR, settings.pop("submitit_folder")
    timeouts = {f"{cluster}_{key}": settings.pop(key) for key in ("max_num_timeout",) if key in settings}
    executor = submitit.AutoExecutor(cluster=cluster, folder=place, **timeouts)
    executor.update_parameters(
        **{key if key in of_every_queue else f"{cluster}_{key}": value for key, value in settings.items()}
    )
    state = Singleton.get_state()
    jobs, overrides = zip(*commands, strict=True)
    numbers = [job.number for job in jobs]
    return executor.map_array(Task(launcher), overrides, numbers, [state] * len(jobs))


def _wait(queue: Queue, sweep: Path, waiting: Mapping[str, Job], before: Mapping[Job, int]) -> list[Ended]:
    """The jobs in the order in which they left the queue; `before`: when their records were written last."""
    left, ends, silent = dict(waiting), [], False
    started = time.monotonic()
    try:
        while left:
            held = queue.holds()
            if held is None and not silent:
                console().print("squeue does not answer: asked again until it does")
            silent = held is None
            gone = [] if held is None else [number for number in left if number not in held]
            ends += _looked_at(queue, sweep, {number: left.pop(number) for number in gone}, before)
            if left:
                time.sleep(min(LONGEST_PAUSE, 1 + (time.monotonic() - started) / 10))
    except KeyboardInterrupt:
        _offer_to_cancel(queue, left)
        raise
    return ends


def _looked_at(queue: Queue, sweep: Path, gone: Mapping[str, Job], before: Mapping[Job, int]) -> list[Ended]:
    """What their folders say of jobs that have left the queue."""

    def said_how(job: Job) -> bool:
        return outcome(sweep / str(job.number)).is_final and _written(sweep, job) != before.get(job)

    until = time.monotonic() + LATE_FILES
    silent = dict(gone)
    while silent := {number: job for number, job in silent.items() if not said_how(job)}:
        if time.monotonic() > until:
            break
        time.sleep(1)
    return [_ended(job, queue.end_of(number)) if number in silent else Ended(job) for number, job in gone.items()]


def _written(sweep: Path, job: Job) -> int:
    """When the job's record was written last; 0: never."""
    path = sweep / str(job.number) / "run.json"
    return path.stat().st_mtime_ns if path.exists() else 0


def _ended(job: Job, state: str) -> Ended:
    said = f": {state.lower().replace('_', ' ')}" if state else ""
    return Ended(job, f"lost{said}", state.startswith("CANCELLED"))


def _still_queued(folder: SweepFolder, jobs: Sequence[Job]) -> dict[str, Job]:
    """The jobs that an earlier process submitted, by their number in the queue, as far as they are in it."""
    numbers = {listed["number"]: listed["slurm"] for listed in folder.jobs if "slurm" in listed}
    before = {numbers[job.number]: job for job in jobs if job.number in numbers}
    held = SlurmQueue().holds() or set() if before else set()
    return {number: job for number, job in before.items() if number in held}


def _note_numbers(folder: SweepFolder, started: Mapping[str, Job]) -> None:
    of_job = {job.number: number for number, job in started.items()}
    for listed in folder.jobs:
        if listed["number"] in of_job:
            listed["slurm"] = of_job[listed["number"]]
    folder.write()


def _offer_to_cancel(queue: Queue, left: Mapping[str, Job]) -> None:
    if not left or not isinstance(queue, SlurmQueue):
        return
    arrays = sorted({number.partition("_")[0] for number in left})
    jobs = ", ".join(str(job.number) for job in left.values())
    console().print(
        f"\njobs {jobs} go on in Slurm's queue (scancel {' '.join(arrays)} ends them); Ctrl-C again cancels them",
        markup=False,
        soft_wrap=True,
    )
    try:
        time.sleep(SECOND_THOUGHTS)
    except KeyboardInterrupt:
        queue.cancel(list(left))
        console().print(f"cancelled: jobs {jobs}", markup=False, soft_wrap=True)
