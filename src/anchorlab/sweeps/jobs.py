"""A sweep's jobs: each is `train.py` started anew, so that one crash ends one job and DDP replays the right command.

Hydra expands the sweep and calls `run_job` for each set of overrides, under whichever launcher; `SweepSummary`, a
Hydra callback, says at the end what became of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.table import Table

from anchorlab.terminal import console


def run_job(config: DictConfig) -> None:
    """Run this job's command line in its own process and folder. A failing job is recorded, and raises nothing:
    the others go on."""
    hydra = HydraConfig.get()
    folder, sweep = Path(hydra.runtime.output_dir).absolute(), Path(hydra.sweep.dir)
    overrides = list(hydra.overrides.task)
    if "group" in config.logger and config.logger.group is None:
        overrides.append(f"logger.group='{sweep.parent.name}_{sweep.name}'")
    print(f"\njob {hydra.job.num}: {' '.join(hydra.overrides.task)}", flush=True)
    script = Path(hydra.runtime.cwd) / sys.argv[0]
    command = [sys.executable, str(script), *overrides, f"hydra.run.dir='{folder}'"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HYDRA_")}
    code = subprocess.run(command, cwd=hydra.runtime.cwd, env=environment, check=False).returncode
    if code != 0:
        print(f"job {hydra.job.num} failed with exit code {code}; the others go on", file=sys.stderr)


class SweepSummary(Callback):
    """Prints the table of all jobs after a sweep, and exits with 1 where one failed."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        sweep = Path(config.hydra.sweep.dir)
        runs = [_read(folder) for folder in sorted(sweep.iterdir(), key=_job_number) if folder.is_dir()]
        console().print(summary_table(runs, sweep))
        failed = [run for run in runs if run.get("status") != "finished"]
        for run in failed:
            console().print(f"job {run['job']}: {run.get('reason') or 'never came to its first step'}", markup=False)
        if failed:
            raise SystemExit(1)


def summary_table(runs: list[dict[str, Any]], sweep: Path) -> Table:
    """A row a job: the overrides it does not share with all others, its anchors, and what it reached."""
    everywhere = set.intersection(*(set(run.get("overrides") or []) for run in runs)) if len(runs) > 1 else set()
    table = Table(title=f"{len(runs)} jobs in {sweep}", title_justify="left")
    for name in ("job", "overrides", "k", "anchors per image", "recall@100", "AR@100", "AR@1000", "status"):
        table.add_column(name, justify="left" if name in ("overrides", "status") else "right")
    for run in runs:
        axes, figures = run.get("axes") or {}, (run.get("figures") or {}).get("final") or {}
        table.add_row(
            run["job"],
            " ".join(override for override in run.get("overrides") or [] if override not in everywhere),
            *(_shown(axes.get(name)) for name in ("k", "anchors_per_image")),
            *(_shown(figures.get(name)) for name in ("recall_100", "AR_100", "AR_1000")),
            run.get("status") or "not started",
        )
    return table


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    record = json.loads(path.read_text()) if path.is_file() else {}
    return record | {"job": folder.name}


def _job_number(folder: Path) -> tuple[bool, int, str]:
    return (not folder.name.isdigit(), int(folder.name) if folder.name.isdigit() else 0, folder.name)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) and not value.is_integer() else f"{value:g}"
