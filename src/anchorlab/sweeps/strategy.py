"""Strategies of a sweep: which jobs run, in which order, and how far. They do not run the jobs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from anchorlab.signatures import Count, Share, checked
from anchorlab.sweeps.folder import SweepFolder
from anchorlab.sweeps.jobs import Job, Outcome
from anchorlab.sweeps.space import Point, Space


class Sweep(Protocol):
    """What a strategy may ask of the running sweep; `sweep.RunningSweep` has it, and its docstrings say more."""

    space: Space
    folder: SweepFolder
    total_epochs: int

    @property
    def jobs(self) -> list[Job]: ...

    @property
    def workers(self) -> int: ...

    def plan(self, points: Iterable[Point], probe: bool = False) -> list[Job]: ...

    def plan_listed(self) -> list[Job]: ...

    def preview(self, points: Iterable[Point], *notes: str) -> None: ...

    def show(self, jobs: Sequence[Job], share: float = 1.0, *notes: str) -> None: ...

    def launch(self, jobs: Sequence[Job], *more: str) -> None: ...

    def outcome(self, job: Job) -> Outcome: ...

    def metric(self, job: Job) -> float | None: ...

    def note_rung(self, job: Job, epoch: int) -> float | None: ...

    def last_rung(self, job: Job, before: int) -> float: ...


@dataclass
class Strategy:
    """What the strategies share; `run` is what each adds.

    Args:
        params: setting -> values, as in `space.read_space`; what is typed on the command line goes before.
        monitor: the metric of a run's last validation that jobs are compared by, such as AR_100; more is better.
        min_coverage: jobs whose anchors cover less of the training boxes are left out; null: none is.
        at_once: jobs handed to the launcher together; null: what suits it.
        probe: whether a few steps are timed, for the times in the table.
        dry_run: stop after the table.
        again: start a new folder instead of resuming the unfinished sweep of the same command.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    monitor: str = "AR_100"
    min_coverage: Share | None = None
    at_once: Count | None = None
    probe: bool = True
    dry_run: bool = False
    again: bool = False

    def run(self, sweep: Sweep) -> None:
        """Plan, show the table, and unless `dry_run`, run jobs until the sweep is done."""
        raise NotImplementedError

    def summary(self, sweep: Sweep) -> list[str]:
        """Lines below the final table."""
        return []


@checked
@dataclass
class Grid(Strategy):
    """Every combination of the values, once."""

    def run(self, sweep: Sweep) -> None:
        jobs = sweep.plan(sweep.space.points(), self.probe)
        sweep.show(jobs)
        if not self.dry_run:
            sweep.launch(jobs)
