"""How the benchmarks measure: A B A B in one process, medians, and the machine beside every figure.

A ratio of two medians from one run says something on any machine; a time in seconds says it of this one only.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from anchorlab.runs import environment

RESULTS = Path(__file__).parent / "results"


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int = 7) -> dict[str, float]:
    """Median seconds of each function, called in turn `repeats` times after one call that does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat > 0:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def report(name: str, claim: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table and keep them, with the machine and the commit, in results/<name>.json."""
    table = Table(title=claim, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    commit, dirty = environment.commit()
    setting = {
        "claim": claim,
        "machine": environment.machine(),
        "versions": environment.versions(),
        "commit": commit,
        "dirty": dirty,
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**setting, "rows": list(rows)}, indent=2) + "\n")
