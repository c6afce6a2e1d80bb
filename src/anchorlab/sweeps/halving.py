"""Successive halving: trains all configurations briefly and continues the best. It is not early stopping within a run.

Every job is a run of the full-length schedule that stops at its rung and is resumed from its checkpoint where it is
among the best: the last one standing has trained exactly as it would have alone (Jamieson and Talwalkar 2016).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, MinLen

from anchorlab.errors import SettingError
from anchorlab.signatures import Count, checked, shown
from anchorlab.sweeps.jobs import Job
from anchorlab.sweeps.strategy import Strategy, Sweep


@checked
@dataclass
class Halving(Strategy):
    """The combinations of a grid, of which one in `factor` goes on at each rung.

    Jobs start in the order of their coverage, which also decides between equal metrics.

    Args:
        factor: of the jobs from rung to rung, and of the epochs where `rungs` is null.
        rungs: epochs after which jobs are compared; null: total / factor^2 and total / factor.
    """

    factor: Annotated[int, Ge(2)] = 3
    rungs: Annotated[Sequence[Count], MinLen(1)] | None = None

    def run(self, sweep: Sweep) -> None:
        stops = self.stops(sweep.total_epochs)
        jobs = sweep.plan(sweep.space.points(), self.probe)
        running = [job for job in jobs if job.runs]
        fields = self.fields(len(running), len(stops))
        share = self.share(fields, stops)
        sweep.show(jobs, share, f"epochs {shown(stops)} with {shown(fields)} jobs: {share:.0%} of the grid's epochs")
        if self.dry_run:
            return
        for stop, count in zip(stops, fields, strict=True):
            running = self._best(sweep, running, count, stop)
            behind = [job for job in running if not sweep.outcome(job).reached(stop)]
            sweep.launch(behind, *([] if stop == stops[-1] else [f"callbacks.stop_after.epochs={stop}"]))
            running = [job for job in running if sweep.note_rung(job, stop) is not None]

    def summary(self, sweep: Sweep) -> list[str]:
        jobs = [job for job in sweep.jobs if job.runs]
        done, full = sum(sweep.outcome(job).epochs for job in jobs), len(jobs) * sweep.total_epochs
        return [f"{done} epochs trained of the {full} of the whole grid ({done / max(full, 1):.0%})"]

    def stops(self, total: int) -> list[int]:
        """The epochs at which jobs stop, the last being their end.

        Raises:
            SettingError: rungs that are not in order, or none before the end.
        """
        if self.rungs is None:
            chosen = {max(1, round(total / self.factor**power)) for power in (2, 1)}
        else:
            chosen = set(self.rungs)
            if list(self.rungs) != sorted(chosen) or not all(0 < rung <= total for rung in chosen):
                raise SettingError(
                    f"sweep.rungs={shown(self.rungs)} must be epochs in ascending order, none beyond the end at "
                    f"trainer.epochs={total}"
                )
        stops = sorted({*chosen, total})
        if len(stops) < 2:
            raise SettingError(
                f"sweep=halving finds no rung before the end at trainer.epochs={total}: train for more epochs, or use "
                f"sweep=grid"
            )
        return stops

    def fields(self, jobs: int, stops: int) -> list[int]:
        """How many jobs train up to each stop: all, then one in `factor` of those before, at least one."""
        return [max(1, math.ceil(jobs / self.factor**rung)) if jobs else 0 for rung in range(stops)]

    def share(self, fields: Sequence[int], stops: Sequence[int]) -> float:
        """Epochs of all rungs, as a share of what training every job to the end takes."""
        lengths = [stop - before for stop, before in zip(stops, [0, *stops], strict=False)]
        return sum(n * length for n, length in zip(fields, lengths, strict=True)) / max(fields[0] * stops[-1], 1)

    def _best(self, sweep: Sweep, jobs: Sequence[Job], count: int, stop: int) -> list[Job]:
        """The `count` best at the rung before `stop`; before the first one, all, in the order of their promise."""
        ranked = sorted(jobs, key=lambda job: (sweep.last_rung(job, stop), *_expected(job)), reverse=True)
        return ranked[:count]


def _expected(job: Job) -> tuple[float, float]:
    """The coverage of a job's anchors: its expected rank before any training."""
    return (job.facts.coverage, job.facts.mean_best_iou) if job.facts else (-1.0, -1.0)
