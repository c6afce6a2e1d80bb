"""Processor cores that this process may use: what the machine has, less what schedulers and containers keep."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cores(cgroups: Path = CGROUPS) -> int:
    """How many threads can run at the same time: the affinity mask (taskset, Slurm), and a container's share of time.

    Args:
        cgroups: where the kernel shows the share, as containers see it.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = _share(cgroups)
    return allowed if share is None else max(1, min(allowed, math.ceil(share)))


def default_threads(processes: int = 1) -> int:
    """Threads for each of so many processes on this machine; OMP_NUM_THREADS is the most that a process takes."""
    threads = max(1, available_cores() // processes)
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list is for nested parallel regions
    return min(threads, int(asked)) if asked.isdecimal() and int(asked) > 0 else threads


def _share(cgroups: Path) -> float | None:
    """Cores' worth of time in each period, of version 2 or 1 of control groups; None: no limit."""
    places = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
    for names in places:
        try:
            words = [word for name in names for word in (cgroups / name).read_text(encoding="ascii").split()]
            quota, period = (float(word) for word in words)  # "max" is no number: no limit
        except (OSError, ValueError):
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None
