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
from rich.console import Console
from rich.table import Table


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
        Console(highlight=False).print(summary_table(runs, sweep))
        if any(run.get("status") != "finished" for run in runs):
            raise SystemExit(1)


def summary_table(runs: list[dict[str, Any]], sweep: Path) -> Table:
    """A row a job: its overrides, anchors per location and image, and what it reached."""
    table = Table(title=f"{len(runs)} jobs in {sweep}", title_justify="left")
    for name in ("job", "overrides", "k", "anchors per image", "recall@100", "AR@100", "AR@1000", "status"):
        table.add_column(name, justify="left" if name in ("overrides", "status") else "right")
    for run in runs:
        axes, figures = run.get("axes") or {}, (run.get("figures") or {}).get("final") or {}
        table.add_row(
            run["job"],
            " ".join(run.get("overrides") or []),
            *(_shown(axes.get(name)) for name in ("k", "anchors_per_image")),
            *(_shown(figures.get(name)) for name in ("recall_100", "AR_100", "AR_1000")),
            run.get("reason") or run.get("status") or "never started",
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
