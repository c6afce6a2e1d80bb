"""A sweep from its command to its table: plans jobs, skips those that need not or cannot run, and launches the others.

Which jobs, and in which order, is the strategy's choice; running one is `jobs.run_job`'s work. What is known of a
job lies in two places only: its plan in sweep.json, its outcome in its own folder.
"""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import InstantiationException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from anchorlab.config.composition import Composer
from anchorlab.config.instantiation import instantiate
from anchorlab.console import console, tell
from anchorlab.errors import FAILED, INTERRUPTED, SettingError, user_sentences
from anchorlab.runs import environment
from anchorlab.runs.files import write_whole
from anchorlab.runs.record import RunRecord, read_run
from anchorlab.sweeps import array, tables, upload
from anchorlab.sweeps.describe import Facts, describe
from anchorlab.sweeps.folder import SweepFolder, hold
from anchorlab.sweeps.jobs import SWEEP_ORDER, SWEEP_PID, Job, Outcome, outcome, queues, side_by_side
from anchorlab.sweeps.space import Point, Space, read_space
from anchorlab.sweeps.strategy import Strategy


def run_sweep(config: DictConfig, loader: ConfigLoader, launcher: Launcher, arguments: Sequence[str]) -> None:
    """What `python train.py -m` does; leaves with exit code 1 where a job failed.

    Raises:
        SystemExit: with 1 for failed jobs, 2 for a wrong setting, 130 after Ctrl-C.
    """
    with user_sentences():
        strategy = _strategy(config)
        space = read_space(strategy.params, arguments, loader)
        sweep = RunningSweep(config, loader, launcher, space, strategy)
        try:
            if not strategy.dry_run:
                sweep.start(arguments)
            strategy.run(sweep)
        except KeyboardInterrupt:
            _interrupted(Path(config.hydra.sweep.dir))
    if not strategy.dry_run:
        sweep.conclude()


class RunningSweep:
    """The running sweep: what strategies plan, launch and look up through.

    Attributes:
        folder: sweep.json and the jobs' folders.
        total_epochs: of the full schedule; halving divides them.
    """

    def __init__(
        self, config: DictConfig, loader: ConfigLoader, launcher: Launcher, space: Space, strategy: Strategy
    ) -> None:
        self.space = space
        self.strategy = strategy
        self.folder = SweepFolder(Path(config.hydra.sweep.dir))
        self.total_epochs = int(config.trainer.epochs)
        self._config = config
        self._launcher = launcher
        self._compose = Composer(config, loader)
        self._jobs: dict[str, Job] = {}
        self._found: dict[Point, tuple[dict[str, Any], Facts | SettingError]] = {}

    @property
    def jobs(self) -> list[Job]:
        """Those with a folder, by number."""
        return sorted(self._jobs.values(), key=lambda job: job.number or 0)

    def start(self, arguments: Sequence[str]) -> None:
        """Take the folder.

        Raises:
            SettingError: where another sweep is running in it.
        """
        path = self.folder.path
        if not hold(path):
            raise SettingError(f"hydra.sweep.dir={path} is in use by a sweep that still runs: choose another folder")
        commit, _ = environment.commit()
        earlier = self.folder.content.get("commit")
        if self.folder.jobs:
            console().print(f"going on with {path}", soft_wrap=True)
            if earlier != commit:
                console().print(f"its finished jobs were trained by commit {earlier}, this is {commit}")
        if line := upload.state(self._config.logger):
            tell(line)
        self.folder.start([*arguments, *self._config.hydra.overrides.hydra], commit)
        write_whole(path / "multirun.yaml", OmegaConf.to_yaml(self._config).encode())
        os.environ[SWEEP_PID] = str(os.getpid())

    def plan(self, points: Iterable[Point], probe: bool = False) -> list[Job]:
        """The jobs of these points, in order; those to run have a number and are listed in sweep.json.

        A configuration that was planned before, here or in an earlier run of the sweep, keeps its number. One
        that equals a planned one, written differently, is left out.

        Args:
            probe: time steps for those not seen before.
        """
        planned = [self._job(point) for point in self._look_at(points, probe)]
        if not self.strategy.dry_run:
            self.folder.write()
        return planned

    def plan_listed(self) -> list[Job]:
        """The jobs of sweep.json, which an earlier run of the sweep planned."""
        return self.plan(tuple(listed["point"]) for listed in self.folder.jobs)

    def preview(self, points: Iterable[Point], *notes: str) -> None:
        """A table of configurations that may become jobs."""
        jobs: list[Job] = []
        seen: set[str] = set()
        for point in self._look_at(points, self.strategy.probe):
            job = self._described(point)
            jobs.append(replace(job, left_out="same as one above") if job.key in seen else job)
            seen.add(job.key)
        console().print(tables.plan_table(self.space.axes, jobs, {}, self.folder.path))
        for line in (*notes, *tables.impossible_notes(jobs)):
            tell(line)

    def show(self, jobs: Sequence[Job], share: float = 1.0, *notes: str) -> None:
        """The table before the first job, and `notes` below it; `share` of the jobs' full length will be trained."""
        states = {job.number: self.outcome(job).status for job in jobs if job.number is not None}
        console().print(tables.plan_table(self.space.axes, jobs, states, self.folder.path))
        for line in (*notes, *tables.plan_notes(jobs, states, share, self.workers)):
            tell(line)

    def launch(self, jobs: Sequence[Job], *more: str) -> None:
        """Run those of `jobs` that run and are not finished, in order, with `more` overrides; wait for their end."""
        waiting = [job for job in jobs if job.runs and self.outcome(job).status != "finished"]
        launcher = self._config.hydra.launcher
        os.environ[SWEEP_ORDER] = ",".join(str(job.number) for job in waiting)
        size = self.strategy.at_once or (len(waiting) if queues(launcher) else side_by_side(launcher)) or 1
        for start in range(0, len(waiting), size):
            batch = waiting[start : start + size]
            commands = [[*job.overrides, *more, f"hydra.sweep.subdir='{job.number}'"] for job in batch]
            try:
                if array.takes(self._launcher):
                    lost = array.run(self._launcher, self.folder, dict(zip(batch, commands, strict=True)))
                    for job, reason in lost.items():
                        self._note_lost(job, reason)
                    continue
                returns = self._launcher.launch(commands, initial_job_idx=batch[0].number or 0)
            except Exception as error:  # a launcher whose worker is lost may raise anything
                console().print(f"the launcher gave up: {error}", markup=False)
                continue
            _show_worker_errors(returns)

    def outcome(self, job: Job) -> Outcome:
        """What became of a job so far."""
        if job.number is None:
            return Outcome("none", None, {})
        return outcome(self.folder.path / str(job.number))

    @property
    def workers(self) -> int:
        """How many jobs the launcher runs at the same time."""
        return side_by_side(self._config.hydra.launcher)

    def metric(self, job: Job) -> float | None:
        """The monitored metric of a finished job; None for any other."""
        end = self.outcome(job)
        return self._monitored(end) if end.status == "finished" else None

    def note_rung(self, job: Job, epoch: int) -> float | None:
        """Store the job's metric after so many epochs; None for a job that failed."""
        listed = self._listed(job)
        kept = listed.setdefault("rungs", {})
        end = self.outcome(job)
        if str(epoch) not in kept and end.reached(epoch):
            kept[str(epoch)] = self._monitored(end)
            self.folder.write()
        return kept.get(str(epoch))

    def last_rung(self, job: Job, before: int) -> float:
        """The job's metric at its last rung before an epoch; minus infinity where there is none."""
        kept = {int(epoch): metric for epoch, metric in self._listed(job).get("rungs", {}).items()}
        behind = [epoch for epoch in kept if epoch < before]
        return kept[max(behind)] if behind else -math.inf

    def conclude(self) -> None:
        """The table after the last job.

        Raises:
            SystemExit: with 1 where a job failed.
        """
        jobs = self.jobs
        outcomes = [self.outcome(job) for job in jobs]
        console().print()
        console().print(tables.result_table(self.space.axes, jobs, outcomes, self.strategy.monitor, self.folder.path))
        for line in (*self.strategy.summary(self), *tables.result_notes(jobs, outcomes)):
            tell(line)
        if line := upload.command(self.folder.path):
            console().print(f"upload all to W&B: {line}", markup=False, soft_wrap=True)
        failed = [job for job, end in zip(jobs, outcomes, strict=True) if end.status not in ("finished", "paused")]
        self.folder.content["status"] = "failed" if any(job.runs for job in failed) else "finished"
        self.folder.write()
        if failed:
            raise SystemExit(FAILED)

    def _monitored(self, end: Outcome) -> float:
        if self.strategy.monitor not in end.metrics:
            names = ", ".join(name for name in end.metrics if name not in ("epoch", "step"))
            raise SettingError(f"sweep.monitor={self.strategy.monitor} is no metric of a run: there are {names}")
        return end.metrics[self.strategy.monitor]

    def _look_at(self, points: Iterable[Point], probe: bool = False) -> list[Point]:
        """Compose and describe those not yet known; the points as they came, each once."""
        asked = list(dict.fromkeys(points))
        configs: dict[Point, dict[str, Any]] = {}
        for point in asked:
            if point not in self._found:
                try:
                    configs[point] = self._compose(self.space.overrides(point))
                except SettingError as error:
                    self._found[point] = ({}, error)
        facts = describe(list(configs.values()), probe)
        self._found |= {point: (config, found) for (point, config), found in zip(configs.items(), facts, strict=True)}
        return asked

    def _described(self, point: Point) -> Job:
        overrides = tuple(self.space.overrides(point))
        _, found = self._found[point]
        if isinstance(found, Facts):
            return Job(point, overrides, found.key, facts=found, left_out=self._hopeless(found))
        return Job(point, overrides, " ".join(overrides), impossible=str(found))

    def _job(self, point: Point) -> Job:
        """The job of a described point, with its number where it gets a folder."""
        job = self._described(point)
        twin = self._jobs.get(job.key)
        if twin is not None:
            return twin if twin.point == point else replace(job, left_out=f"same as job {twin.number}", twin=twin)
        if job.left_out is not None:
            return job
        job = replace(job, number=self._number(job))
        self._jobs[job.key] = job
        if job.impossible and not self.strategy.dry_run:
            self._note_impossible(job, self._found[point][0])
        return job

    def _hopeless(self, facts: Facts) -> str | None:
        least = self.strategy.min_coverage
        if least is None or facts.coverage >= least:
            return None
        return f"coverage below {least:g}"

    def _number(self, job: Job) -> int:
        """The job's number in sweep.json; listed there if it is new."""
        for listed in self.folder.jobs:
            if listed["key"] == job.key:
                listed["point"] = list(job.point)
                return listed["number"]
        number = self.folder.free_number()
        facts = None if job.facts is None else asdict(job.facts)
        self.folder.jobs.append({"number": number, "key": job.key, "point": list(job.point), "facts": facts})
        return number

    def _listed(self, job: Job) -> dict[str, Any]:
        return next(listed for listed in self.folder.jobs if listed["number"] == job.number)

    def _note_lost(self, job: Job, reason: str) -> None:
        """Say in the job's record why it is no more, as nothing else does; it may have none yet."""
        record = RunRecord(self.folder.path / str(job.number))
        if self.outcome(job).status == "none":
            config = self._found[job.point][0]
            record.start(config, config.get("seed"), overrides=job.overrides)
        else:
            record.content = read_run(record.folder).content
        record.fail(reason)

    def _note_impossible(self, job: Job, config: dict[str, Any]) -> None:
        """A record like any failed run's, so that comparisons know of it."""
        record = RunRecord(self.folder.path / str(job.number))
        record.start(config, config.get("seed"), overrides=job.overrides)
        record.fail(job.impossible or "")


def _strategy(config: DictConfig) -> Strategy:
    """The strategy of the group `sweep`. Not built by build.py, which imports torch: this process stays small."""
    try:
        return instantiate(config.sweep)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise SettingError(str(error.__cause__)) from error
        raise


def _show_worker_errors(returns: Sequence[JobReturn]) -> None:
    for job in returns:
        if job.status == JobStatus.FAILED:
            console().print(f"a worker failed: {job._return_value}", markup=False)


def _interrupted(folder: Path) -> NoReturn:
    console().print(f"\nstopped; the same command goes on in {folder}", soft_wrap=True)
    raise SystemExit(INTERRUPTED)
