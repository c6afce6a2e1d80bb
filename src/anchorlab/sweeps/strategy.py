"""A sweep's strategy: which jobs run, in which order, and how far. How a job runs is not its business."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anchorlab.sweeps.sweep import Sweep


class Strategy:
    """What the strategies share; `run` is what each adds.

    Args:
        params: setting -> values, as in `space.read_space`; what is typed on the command line goes before.
        monitor: the figure of a run's last validation that jobs are compared by, such as AR_100; more is better.
        min_coverage: jobs whose anchors cover less of the training boxes are left out; null: none is.
        at_once: jobs handed to the launcher together; null: what the launcher runs side by side.
        probe: whether two steps are timed for the table where no earlier run tells how long one takes.
        dry_run: stop after the table.
        again: a new folder, where an unfinished sweep of the same command would be gone on with.
    """

    def __init__(
        self,
        params: Mapping[str, Any] | None = None,
        monitor: str = "AR_100",
        min_coverage: float | None = None,
        at_once: int | None = None,
        probe: bool = True,
        dry_run: bool = False,
        again: bool = False,
    ) -> None:
        self.params = dict(params or {})
        self.monitor = monitor
        self.min_coverage = min_coverage
        self.at_once = at_once
        self.probe = probe
        self.dry_run = dry_run
        self.again = again

    def run(self, sweep: "Sweep") -> None:
        """Plan, show the table, and unless `dry_run`, run jobs until the sweep is done."""
        raise NotImplementedError


class Grid(Strategy):
    """Every combination of the values, once."""

    def run(self, sweep: "Sweep") -> None:
        jobs = sweep.plan(sweep.space.points())
        sweep.show(jobs)
        if not self.dry_run:
            sweep.launch(jobs)
