"""Environment of a run: the code, packages and machine that help to explain a metric or a time later.

Knows nothing of torch: whoever uses an accelerator passes its name.
"""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from anchorlab.cores import available_cores

PACKAGES = (
    "anchorlab",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "albumentations",
    "opencv-python-headless",
    "numpy",
    "timm",
    "wandb",
)
NO_CODE = ":(top,exclude)benchmarks/results"


def versions() -> dict[str, str]:
    """Python and the installed ones of `PACKAGES`."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Host name, system, processor, cores that this process may use, memory in GiB, Slurm job; None where unknown."""
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": available_cores(),
        "memory_gib": _memory_gib(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def commit() -> tuple[str | None, bool | None]:
    """Commit of AnchorLab's own code and whether tracked files differ from it; None outside a checkout.

    Changed tables of benchmarks do not count: else the first benchmark would mark the code of the next as changed.
    """
    here = Path(__file__).resolve()
    # An installed copy may lie inside somebody else's checkout, whose commit would say nothing.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None, None
    head = _git(here.parent, "rev-parse", "HEAD")
    changes = _git(here.parent, "status", "--porcelain", "--untracked-files=no", "--", ":(top)", NO_CODE)
    return head, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
