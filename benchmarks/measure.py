"""Measuring tools of the benchmarks: A B A B in one process, medians, memory by process, and the setting of each
number.

A ratio of two medians from one run says something on any machine; a time in seconds says it of this one only.
No benchmark is a test: the tests run each of them once on a small problem, to see that it still works.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from anchorlab.runs import environment

RESULTS = Path(__file__).parent / "results"
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What the command line of every benchmark decides.

    quick: the smallest problem that still runs every line, in a few seconds; its figures mean nothing.
    threads: of torch and of every peer, None: one.
    repeats: counted calls of each side, None: the benchmark's own choice, at least 5.
    results: folder of the tables, None: print them only.
    """

    quick: bool = False
    threads: int | None = None
    repeats: int | None = None
    results: Path | None = None

    def num_repeats(self, usual: int) -> int:
        """Counted calls of each side of a comparison."""
        return 1 if self.quick else usual if self.repeats is None else self.repeats


@dataclass(frozen=True)
class Timing:
    """Seconds of each counted call of one side, in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def ms(self) -> float:
        return 1000 * self.median

    def times_faster(self, other: "Timing") -> float:
        """The other's median by this one's."""
        return other.median / self.median

    def range_of_rounds(self, other: "Timing") -> str:
        """The lowest and the highest ratio of a single round: how far the claim can be trusted."""
        ratios = [theirs / ours for ours, theirs in zip(self.seconds, other.seconds, strict=True)]
        return f"{min(ratios):.3g} to {max(ratios):.3g}"


class Memory(NamedTuple):
    """MiB of a process: what one call added to its peak, and that peak; NaN where there is no /proc."""

    growth: float
    peak: float


def parse(description: str | None) -> Options:
    """The options on the command line; `description` is the benchmark's docstring."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small problem, once: does the benchmark still work?")
    parser.add_argument("--threads", type=int, help="threads of every side (default: the benchmark's own choice)")
    parser.add_argument("--repeats", type=int, help="counted calls of every side (default: the benchmark's own choice)")
    parser.add_argument("--results", type=Path, help=f"folder of the tables (default: {RESULTS}; none with --quick)")
    given = parser.parse_args()
    results = given.results if given.results or given.quick else RESULTS
    return Options(given.quick, given.threads, given.repeats, results)


def set_threads(num: int) -> None:
    """Give torch `num` threads, and as many to OpenMP, BLAS and Rayon where these have not started yet."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(num)))
    torch.set_num_threads(num)


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int = 7) -> dict[str, Timing]:
    """Time each function in turn, A B A B, `repeats` rounds after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for counts in [False] + [True] * repeats:
        for name, run in runs.items():
            _wait_for_device()
            started = time.perf_counter()
            run()
            _wait_for_device()
            if counts:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def peak_memory(build: Callable[..., Callable[[], Any]], *arguments: Any) -> Memory:
    """What one call of `build(*arguments)()` adds to the peak of a process of its own.

    `build` is a module's function, as its name travels; what it allocates itself does not count. The call is
    made once on its own result before it counts, so that code read from disk and caches made once do not
    count either.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchvision", "benchmarks.measure"])
    # Not multiprocessing.Pool: it starts a worker that was killed for its memory anew, for ever.
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure_memory, torch.get_num_threads(), build, arguments).result()


def peak_of_process() -> float:
    """Peak memory of this process so far, MiB; NaN where there is no /proc."""
    return _status_mib("VmHWM") if STATUS.exists() else float("nan")


def report(
    name: str, claim: str, rows: Sequence[Row], setting: Row, options: Options, notes: Sequence[str] = ()
) -> None:
    """Print the rows as a table and keep them with their setting as <name>.json and <name>.md.

    claim: one sentence that the table shows. setting: what the reader must know to judge it: layout, precision
    and repeats; torch's threads, machine, versions and commit are added here. notes: sentences below the table.
    """
    whole = {"threads": torch.get_num_threads()} | setting | _provenance()
    _print(claim, rows, notes)
    if options.results is None:
        return
    options.results.mkdir(parents=True, exist_ok=True)
    content = {"claim": claim, "setting": whole, "rows": list(rows), "notes": list(notes)}
    (options.results / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    (options.results / f"{name}.md").write_text(_markdown(name, claim, rows, whole, notes))


def _wait_for_device() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _measure_memory(threads: int, build: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> Memory:
    set_threads(threads)
    call = build(*arguments)
    if not CLEAR_REFS.exists():
        return Memory(float("nan"), float("nan"))
    call()
    # Memory that glibc kept would be used again, and not be seen to grow.
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR_REFS.write_text("5")  # the peak starts again from here (proc(5))
    before = resident_mib()
    call()
    peak = peak_mib()
    return Memory(peak - before, peak)


def resident_mib() -> float:
    """Memory of this process now."""
    return _status_mib("VmRSS")


def peak_mib() -> float:
    """The most memory that this process has had."""
    return _status_mib("VmHWM")


def _status_mib(key: str) -> float:
    """A line of /proc/self/status. Not ru_maxrss, which a process inherits from the one that started it."""
    found = re.search(rf"^{key}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found.group(1)) / 1024


def _provenance() -> Row:
    commit, dirty = environment.commit()
    machine = {key: value for key, value in environment.machine().items() if key != "host"}
    return {"commit": commit, "uncommitted_changes": dirty} | machine | {"versions": environment.versions()}


def _print(claim: str, rows: Sequence[Row], notes: Sequence[str]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(_text, row.values()))
    # As wide as it needs, also in a pipe: a table folded into 80 columns cannot be read.
    console = Console(width=1000, soft_wrap=True)
    console.print(claim, table, *notes, sep="\n")


def _markdown(name: str, claim: str, rows: Sequence[Row], setting: Row, notes: Sequence[str]) -> str:
    columns = list(rows[0])
    rule = [":--" if isinstance(rows[0][column], str) else "--:" for column in columns]
    body = [columns, rule, *(map(_text, row.values()) for row in rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in body)
    versions = ", ".join(f"{package} {version}" for package, version in setting["versions"].items())
    lines = [f"- {key.replace('_', ' ')}: {_text(value)}" for key, value in setting.items() if key != "versions"]
    parts = [f"# {name.capitalize()}", claim, table, *notes, "\n".join([*lines, f"- versions: {versions}"])]
    return "\n\n".join([*parts, f"Made by `{_command()}`."]) + "\n"


def _command() -> str:
    """What makes the table again; one benchmark may leave several."""
    arguments = shlex.join([Path(sys.argv[0]).stem, *sys.argv[1:]])
    return f'make bench ARGS="{arguments}"' if " " in arguments else f"make bench ARGS={arguments}"


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
