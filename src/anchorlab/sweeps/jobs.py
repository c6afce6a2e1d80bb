"""Jobs of a sweep: each starts the train command anew, so that a crash ends one job and DDP replays the right command.

Jobs that run one after another are forked by a process that has imported what they need (forker.py); where a launcher
runs several at once, each job has its own interpreter.

The launcher, whichever it is, calls `run_job` for each job; what became of it is read from the job's folder.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from anchorlab.config.composition import own_choices_of, to_plain
from anchorlab.console import SWEEP_JOB, duration
from anchorlab.cores import available_cores
from anchorlab.runs.record import RunRecord, read_content
from anchorlab.sweeps.describe import Facts
from anchorlab.sweeps.folder import SweepFolder, held_by_job
from anchorlab.sweeps.forker import LINUX, Forked, end_shared, end_with_parent, shared
from anchorlab.sweeps.space import Point
from anchorlab.training.resume import LAST
from anchorlab.training.stopping import SIGNALS


@dataclass(frozen=True)
class Job:
    """A point of the space, described.

    number: its folder's name; None where it gets no folder.
    left_out: why it does not run: the same anchors as another job, or too low a coverage; None: it runs.
    impossible: why it cannot run; it counts as failed.
    twin: the job with the same anchors.
    """

    point: Point
    overrides: tuple[str, ...]
    key: str
    number: int | None = None
    facts: Facts | None = None
    left_out: str | None = None
    impossible: str | None = None
    twin: "Job | None" = None

    @property
    def runs(self) -> bool:
        return self.left_out is None and self.impossible is None


SWEEP_PID = "ANCHORLAB_SWEEP_PID"
SWEEP_ORDER = "ANCHORLAB_SWEEP_ORDER"
"""In the environment of the launcher: the numbers of the jobs it was handed, in their order."""
LOG = "log.txt"
GRACE_SECONDS = 60

Imports = tuple[Sequence[str], Mapping[str, Any]]
"""Modules, and a config whose classes are imported."""
IN_ITS_COURSE = ("anchorlab.plots.anchor_report", "anchorlab.plots.boxes", "anchorlab.plots.coverage")
"""What a training imports behind its first step."""

HYDRAS_ADVICE = b"Set the environment variable HYDRA_FULL_ERROR"
"""How Hydra's last line begins, behind the traceback of any error: it says nothing of the reason."""

# Lightning would take the launcher's one Slurm task for the job's processes, which the job starts itself.
NOT_THE_JOBS = ("HYDRA_", "SLURM_NTASKS", "SLURM_STEP", SWEEP_PID, SWEEP_ORDER)


@dataclass(frozen=True)
class Outcome:
    """What a job's folder says: status `none` (never started), or that of its run.json."""

    status: str
    reason: str | None
    metrics: dict[str, float]

    @property
    def epochs(self) -> int:
        """Epochs behind it, as of its last validation."""
        return int(self.metrics.get("epoch") or 0)

    def __str__(self) -> str:
        metric = self.metrics.get("AR_100")
        reached = f", AR@100 {metric:.3f}" if metric is not None else ""
        return self.status + reached + (f": {self.reason}" if self.reason else "")

    @property
    def has_ended(self) -> bool:
        """Whether the run said how it ended, if only that it was asked to stop; one that was killed says running."""
        return self.status not in ("none", "running")

    def reached(self, epoch: int) -> bool:
        """Whether it has trained this many epochs and has not failed."""
        return self.status == "finished" or (self.status == "paused" and self.epochs >= epoch)


def outcome(folder: Path) -> Outcome:
    """The state of a job's folder; an unreadable one counts as never started."""
    try:
        record = read_content(folder)
    except (OSError, ValueError):
        return Outcome("none", None, {})
    metrics = (record.get("figures") or {}).get("final") or {}
    return Outcome(record.get("status", "running"), record.get("reason"), metrics)


def run_job(config: DictConfig, start: Sequence[str], module: str) -> None:
    """Run this job's command line in its own process and folder, from its checkpoint where it has one.

    A failing job is recorded and raises nothing: the others go on. Under launchers that run several at once, its
    output goes to log.txt in its folder.

    Args:
        start: what starts `train` behind the interpreter; a launcher's worker does not know how the sweep was started.
        module: that command's.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir).absolute()
    title = _title(Path(hydra.sweep.dir), folder)
    with held_by_job(folder, f"{title}: still running from an earlier sweep, waiting for its end") as lock:
        before = outcome(folder)
        if before.status == "finished":
            return
        own = own_choices_of(hydra)
        options = [] if own is None else ["--config-dir", own]
        command = [sys.executable, *start, *options, *_arguments(config, hydra, folder)]
        live = is_serial(hydra.launcher)
        place, left = place_and_time_left(folder)
        print(f"\n{', '.join(filter(None, [title, place, left]))}" if live else f"{title}: started", flush=True)
        forked = ((module, *IN_ITS_COURSE), to_plain(config)) if live else None
        code, last_line = _run(command, Path(hydra.runtime.cwd), lock, None if live else folder / LOG, place, forked)
        if code != 0:
            _note_failure(folder, config, hydra.overrides.task, code, last_line)
        after = outcome(folder)
        print(f"{title}: {after}", flush=True)


def _title(sweep: Path, folder: Path) -> str:
    points = {str(job["number"]): job["point"] for job in SweepFolder(sweep).jobs}
    return f"job {folder.name} ({' '.join(points.get(folder.name, [])) or 'as it is'})"


def _arguments(config: DictConfig, hydra: Any, folder: Path) -> list[str]:
    """Of train.py: the job's own overrides, or those that resume it, which may not change its experiment."""
    place = f"hydra.run.dir='{folder}'"
    stop = config.callbacks.stop_after.epochs if "stop_after" in config.callbacks else None
    budget = [] if stop is None else [f"callbacks.stop_after.epochs={stop}"]
    if (folder / LAST).is_file():
        return [f"resume='{folder}'", *_threads(config, hydra.launcher), *budget, place]
    # A job that can go on does so above, whatever the command says of resuming.
    overrides = [override for override in hydra.overrides.task if override.lstrip("+") != "resume=auto"]
    if "group" in config.logger and config.logger.group is None:
        sweep = Path(hydra.sweep.dir).absolute()
        overrides.append(f"logger.group='{sweep.parent.name}_{sweep.name}'")
    return [*overrides, *_threads(config, hydra.launcher), place]


def _threads(config: DictConfig, launcher: Mapping[str, Any]) -> list[str]:
    """Jobs side by side share the cores; a number of threads that a person chose stays."""
    devices = config.trainer.devices
    share = threads_each(launcher, devices if isinstance(devices, int) and devices > 1 else 1)
    return [] if share is None or config.trainer.threads != "auto" else [f"trainer.threads={share}"]


def place_and_time_left(folder: Path) -> tuple[str, str]:
    """`3 of 12` and `about 20 min left for these`, of the jobs that were handed to the launcher with this one.

    The time is that of the sweep's table, scaled by how long finished jobs really took; "" where nothing
    is known.
    """
    order = os.environ.get(SWEEP_ORDER, "").split(",")
    if folder.name not in order:
        return "", ""
    at = order.index(folder.name)
    guesses = {str(job["number"]): (job.get("facts") or {}).get("seconds") for job in SweepFolder(folder.parent).jobs}
    took = {number: seconds for number in guesses if (seconds := _seconds(folder.parent / number))}
    known = [(seconds, guess) for number, seconds in took.items() if (guess := guesses[number])]
    pace = sum(seconds for seconds, _ in known) / sum(guess for _, guess in known) if known else 1.0
    usual = sum(took.values()) / len(took) if took else None
    left = [pace * guess if (guess := guesses.get(number)) else usual for number in order[at:]]
    seconds = [guess for guess in left if guess is not None]
    place = f"{at + 1} of {len(order)}"
    return place, f"about {duration(sum(seconds))} left" if len(seconds) == len(left) else ""


def _seconds(folder: Path) -> float | None:
    """Seconds of a finished job's training."""
    try:
        record = read_content(folder)
    except (OSError, ValueError):
        return None
    return (record.get("timings") or {}).get("fit_s") if record.get("status") == "finished" else None


def _run(
    command: Sequence[str], cwd: Path, lock: int, log: Path | None, place: str, forked: Imports | None = None
) -> tuple[int, str]:
    """Exit code and last line of standard error, which is shown or logged as it comes.

    Args:
        forked: what the forker is to import that starts the command; None: it has an interpreter of its own.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(NOT_THE_JOBS)}
    environment[SWEEP_JOB] = place or "1"
    output = None if log is None else log.open("ab")
    last: deque[str] = deque(maxlen=1)
    read, write = os.pipe()
    with os.fdopen(read, "rb") as errors:
        try:
            process = None if forked is None else _fork(forked, command[1:], cwd, environment, write, lock)
            if process is None:
                process = subprocess.Popen(
                    command,
                    cwd=cwd,
                    env=environment,
                    stdout=output,
                    stderr=write,
                    pass_fds=(lock,),
                    preexec_fn=end_with_parent if LINUX else None,
                )
        finally:
            os.close(write)
        reader = threading.Thread(target=_pass_on, args=(errors, output or sys.stderr.buffer, last), daemon=True)
        reader.start()
        code = _wait(process)
        reader.join(timeout=GRACE_SECONDS)  # a process it left behind may hold the pipe open
    if output is not None:
        output.close()
    return code, last[0] if last else ""


_jobs_processes: list[subprocess.Popen[bytes]] = []
"""Those that this process waits for: one at a time."""


def ask_to_stop() -> None:
    """Have this process's job keep a checkpoint and end, and wait for that; a signal handler may call it."""
    for process in _jobs_processes:
        os.kill(process.pid, signal.SIGUSR1)
        until = time.monotonic() + GRACE_SECONDS
        # Without reaping it: the interrupted `wait` may hold Popen's lock, and does that itself.
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > until:
                return
            time.sleep(0.1)


def _fork(
    imports: Imports, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], stderr: int, lock: int
) -> Forked | None:
    """The command, started by this sweep's forker; None where there is none, or it has ended."""
    forker = shared()
    if forker is None:
        return None
    forker.imports(*imports)
    process = forker.start(arguments, cwd, environment, {2: stderr}, [lock])
    if process is None:
        end_shared()
    return process


def _wait(process: subprocess.Popen[bytes] | Forked) -> int:
    """The exit code. Ctrl-C reaches the job too, which gets time to close its files; a worker whose sweep was
    killed ends its job."""
    _jobs_processes[:] = [process] if isinstance(process, subprocess.Popen) else []  # a cluster's jobs are not forked
    sweep = int(os.environ.get(SWEEP_PID, 0))
    is_worker = os.getppid() == sweep
    while True:
        try:
            return process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            if is_worker and os.getppid() != sweep:
                process.kill()
        except KeyboardInterrupt:
            try:
                process.wait(timeout=GRACE_SECONDS)
            finally:
                process.kill()
            raise


def _pass_on(source: IO[bytes], target: IO[bytes], last: deque[str]) -> None:
    for line in source:
        target.write(line)
        target.flush()
        if line.strip() and not line.startswith(HYDRAS_ADVICE):
            last.append(line.decode(errors="replace").strip())


def _reason(code: int, last_line: str) -> str:
    if code == -signal.SIGKILL:
        return "killed from outside (SIGKILL): often the kernel, when memory runs out"
    if code < 0:
        return f"ended by signal {-code} ({signal.strsignal(-code)})"
    return last_line.removeprefix("error: ") or f"ended with exit code {code}"


def _note_failure(folder: Path, config: DictConfig, overrides: Sequence[str], code: int, last_line: str) -> None:
    """Write to run.json why the job ended, where the job could not."""
    record = RunRecord(folder)
    state = outcome(folder)
    if (state.status == "failed" and state.reason) or (state.status == "interrupted" and code - 128 in SIGNALS):
        return
    if state.status == "none":
        record.start(to_plain(config), config.seed, overrides=list(overrides))
    else:
        record.content = read_content(folder)
    record.fail(_reason(code, last_line))


def is_serial(launcher: Mapping[str, Any]) -> bool:
    """Whether jobs run one after another in the sweep's own process: then their output belongs on the screen."""
    return str(launcher["_target_"]).endswith("BasicLauncher")


def side_by_side(launcher: Mapping[str, Any]) -> int:
    """How many jobs run at the same time: joblib's workers, Slurm's array, or what the cores allow."""
    if is_serial(launcher):
        return 1
    if "n_jobs" in launcher:
        workers = int(launcher["n_jobs"])
        return workers if workers > 0 else max(1, available_cores() + 1 + workers)
    if launcher.get("array_parallelism"):
        return int(launcher["array_parallelism"])
    return max(1, available_cores() // int(launcher.get("cpus_per_task") or 1))


def queues(launcher: Mapping[str, Any]) -> bool:
    """Whether the launcher queues jobs; submitit's local one starts all of them at once."""
    return is_serial(launcher) or "n_jobs" in launcher or "array_parallelism" in launcher


def threads_each(launcher: Mapping[str, Any], processes: int) -> int | None:
    """Threads for each process of a job of so many, so that jobs do not fight; None: all of the machine's."""
    if is_serial(launcher):
        return None
    if launcher.get("cpus_per_task"):
        share = int(launcher["cpus_per_task"])
    elif launcher.get("array_parallelism"):
        return None  # other machines: the number of their cores is not known here
    else:
        share = available_cores() // side_by_side(launcher)
    return max(1, share // processes)
