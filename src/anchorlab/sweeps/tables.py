"""Tables of a sweep: the jobs that will run, and their results."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anchorlab.console import Column, TextTable, duration
from anchorlab.sweeps.jobs import Job, Outcome
from anchorlab.sweeps.space import Axis

STATES = {
    "none": "to run",
    "running": "broke off: to resume",
    "interrupted": "stopped: to resume",
    "paused": "to resume",
    "failed": "failed before: to try again",
    "finished": "finished before",
}
METRICS = {"recall@100": "recall_100", "AR@100": "AR_100", "AR@1000": "AR_1000"}


def plan_table(axes: Sequence[Axis], jobs: Sequence[Job], states: Mapping[int, str], sweep: Path) -> TextTable:
    """A row for every combination, also those that will not run.

    Args:
        states: number -> the job's status now; jobs without a number have none.
    """
    numbers = [Column("anchors\nper image", spare=2), Column("head\nparameters", spare=3)]
    table = _table(axes, jobs, sweep, *numbers, Column("coverage", spare=1), Column("time"), Column("", True, True))
    for job in jobs:
        facts = job.facts
        numbers = (facts.anchors_per_image, facts.head_parameters, facts.coverage) if facts else (None,) * 3
        status = "none" if job.number is None else states[job.number]
        left = facts.seconds if facts and job.runs and status != "finished" else None
        state = job.left_out or ("impossible" if job.impossible else "" if job.number is None else STATES[status])
        table.add(*_start(job), *map(_cell, numbers), duration(left), state)
    return table


def plan_notes(jobs: Sequence[Job], states: Mapping[int, str], share: float = 1.0, workers: int = 1) -> list[str]:
    """Why jobs are impossible, how many there are of each kind, and how long they take together.

    Args:
        share: of the jobs' full length that will be trained; workers: jobs that run side by side.
    """
    counts = Counter(STATES[states[job.number or 0]] for job in jobs if job.runs)
    counts["impossible"] = sum(job.impossible is not None and job.left_out is None for job in jobs)
    counts["left out"] = sum(job.left_out is not None for job in jobs)
    left = [job.facts.seconds for job in jobs if job.facts and job.runs and states[job.number or 0] != "finished"]
    known = [seconds for seconds in left if seconds is not None]
    side = "one after another" if workers == 1 else f"{workers} at a time"
    total = f"; about {duration(share * sum(known) / min(workers, len(known)))} {side}" if known else ""
    return [*impossible_notes(jobs), ", ".join(f"{count} {state}" for state, count in counts.items() if count) + total]


def impossible_notes(jobs: Sequence[Job]) -> list[str]:
    """Why jobs are impossible."""
    return _grouped(
        ("-" if job.number is None else str(job.number), job.impossible)
        for job in jobs
        if job.impossible and job.left_out is None
    )


def result_table(
    axes: Sequence[Axis], jobs: Sequence[Job], outcomes: Sequence[Outcome], monitor: str, sweep: Path
) -> TextTable:
    """A row a job: its anchors, the metrics of its last validation, how it ended; the best in `monitor` of those
    finished is marked."""
    best = best_job(jobs, outcomes, monitor)
    metrics = METRICS if monitor in METRICS.values() else {**METRICS, monitor: monitor}
    numbers = [Column("anchors\nper image", spare=3), Column("coverage", spare=2)]
    reached = [Column(name, spare=int(key != monitor)) for name, key in metrics.items()]
    table = _table(axes, jobs, sweep, *numbers, *reached, Column("status", left=True, wraps=True))
    for job, end in zip(jobs, outcomes, strict=True):
        facts = job.facts
        numbers = (facts.anchors_per_image, facts.coverage) if facts else (None, None)
        values = (end.metrics.get(name) for name in metrics.values())
        status = "best" if job is best else _status(end)
        table.add(*_start(job), *map(_cell, (*numbers, *values)), status, bold=job is best)
    return table


def result_notes(jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> list[str]:
    """Why jobs failed, and how many of them ended how."""
    ends = list(zip(jobs, outcomes, strict=True))
    reasons = _grouped(
        (str(job.number), end.reason or "never came to its first step")
        for job, end in ends
        if end.status not in ("finished", "paused")
    )
    counts = Counter(_status(end) for _, end in ends)
    return [*reasons, ", ".join(f"{count} {state}" for state, count in counts.items())]


def _grouped(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each reason, with the jobs it holds for ("-": they have no number)."""
    jobs: dict[str, list[str]] = {}
    for number, reason in reasons:
        jobs.setdefault(reason, []).append(number)
    return [
        reason if "-" in who else f"job{'s' * (len(who) > 1)} {', '.join(who)}: {reason}"
        for reason, who in jobs.items()
    ]


def best_job(jobs: Sequence[Job], outcomes: Sequence[Outcome], monitor: str) -> Job | None:
    """The finished job with the highest metric; None where none has one."""
    scored = [
        (end.metrics[monitor], -index, job)
        for index, (job, end) in enumerate(zip(jobs, outcomes, strict=True))
        if end.status == "finished" and monitor in end.metrics
    ]
    return max(scored, key=lambda entry: entry[:2])[2] if scored else None


def _status(end: Outcome) -> str:
    if end.status == "paused":
        return f"left at epoch {end.epochs}"
    return {"none": "not started", "running": "broke off", "interrupted": "stopped"}.get(end.status, end.status)


def _table(axes: Sequence[Axis], jobs: Sequence[Job], sweep: Path, *more: Column) -> TextTable:
    """Job, a column for each axis under the last part of its key, k, and `more`."""
    count = sum(job.number is not None for job in jobs)
    what = f"{count} job{'s' * (count != 1)}" if count else f"{len(jobs)} configurations"
    title = what + (f" in {sweep}" if sweep.is_dir() else "")
    names = [axis.key.rpartition(".")[2] for axis in axes]
    clear = [
        name if names.count(name) == 1 and name != "k" else axis.key for name, axis in zip(names, axes, strict=True)
    ]
    return TextTable([Column("job"), *(Column(name, left=True) for name in clear), Column("k"), *more], title)


def _start(job: Job) -> list[str]:
    """The first cells of a row: number, values, k."""
    number = "-" if job.number is None else str(job.number)
    return [number, *(override.partition("=")[2] for override in job.point), _cell(job.facts and job.facts.k)]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
