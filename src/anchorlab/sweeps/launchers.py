"""What a sweep has to know of Hydra's launchers: how many jobs run side by side, and what each may use of the machine.

Works on a launcher's settings alone, so that it serves any that has the same names for them.
"""

import os
from collections.abc import Mapping
from typing import Any


def is_serial(launcher: Mapping[str, Any]) -> bool:
    """Whether jobs run one after another in the sweep's own process: then their output belongs on the screen."""
    return str(launcher["_target_"]).endswith("BasicLauncher")


def side_by_side(launcher: Mapping[str, Any]) -> int:
    """How many jobs run at the same time: joblib's workers, Slurm's array, or what the cores allow."""
    if is_serial(launcher):
        return 1
    if "n_jobs" in launcher:
        workers = int(launcher["n_jobs"])
        return workers if workers > 0 else max(1, cores() + 1 + workers)
    if launcher.get("array_parallelism"):
        return int(launcher["array_parallelism"])
    return max(1, cores() // int(launcher.get("cpus_per_task") or 1))


def queues(launcher: Mapping[str, Any]) -> bool:
    """Whether it takes any number of jobs and keeps them waiting; submitit's local one starts all it gets."""
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
        share = cores() // side_by_side(launcher)
    return max(1, share // processes)


def cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
