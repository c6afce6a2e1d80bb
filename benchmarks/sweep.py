"""Benchmark of a sweep: seconds for each of 300 small jobs, and for the same trainings as commands; then compare.py.

Each job trains three steps on eight small images and scores two, so that what is left is what a job costs beside its
training: starting, data, records, pictures. Fewer jobs run without pictures (callbacks=none), too. All have the same
threads; the commands run before and after the sweep. Timed apart is how soon a job is at work: from the command to the
first optimizer step of the first job, and from one job's last word in its run.json to that of the next.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.measure import Options, Row, parse, report, set_threads
from benchmarks.start import SMALL, run

ROOT = Path(__file__).parents[1]
JOBS, QUICK_JOBS = 300, 2
SETTINGS = (
    *("data=synthetic", *SMALL, "data.batch_size=4", "data.workers=0", "backbone=tiny"),
    *("trainer.max_steps=3", "trainer.epochs=2", "logger=csv"),
    "+callbacks.first_step._target_=benchmarks.sweep.FirstStep",
)
FIRST_STEP = "first-step"


class FirstStep(Callback):
    """Leaves an empty file in the run's folder as soon as the first optimizer step is taken."""

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        if trainer.global_step == 1:
            Path(trainer.default_root_dir, FIRST_STEP).touch()


def seconds_of(arguments: Sequence[str], folder: Path) -> float:
    started = time.perf_counter()
    run(list(arguments), folder)
    return time.perf_counter() - started


def to_next_step(swept: Path) -> float:
    """Median seconds from a job's end to the first step of the one behind it."""
    jobs = sorted(swept.glob("*/run.json"), key=lambda file: file.stat().st_mtime_ns)
    waits = [(b.parent / FIRST_STEP).stat().st_mtime - a.stat().st_mtime for a, b in pairwise(jobs)]
    return median(waits)


def main(options: Options) -> None:
    threads = options.threads or 1
    set_threads(threads)
    jobs, alone = (QUICK_JOBS, 1) if options.quick else (JOBS, options.num_repeats(5))
    without_pictures = -(-jobs // 10)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train = [str(ROOT / "train.py"), *SETTINGS, f"data.root={folder / 'drawn'}", f"trainer.threads={threads}"]

        def a_command(seed: int) -> float:
            return seconds_of([*train, f"seed={seed}", f"hydra.run.dir={folder / str(seed)}"], ROOT)

        a_command(2 * alone)  # draws the data; does not count

        def a_sweep(name: str, jobs: int, more: Sequence[str] = ()) -> float:
            swept, seeds = folder / name, ",".join(map(str, range(jobs)))
            whole = seconds_of([*train, *more, "-m", f"seed={seeds}", f"hydra.sweep.dir={swept}"], ROOT)
            statuses = [json.loads(file.read_text())["status"] for file in swept.glob("*/run.json")]
            assert statuses == ["finished"] * jobs, statuses
            return whole / jobs

        commands = [a_command(seed) for seed in range(alone)]
        started = time.time()
        a_job = a_sweep("swept", jobs)
        first_step = min(file.stat().st_mtime for file in (folder / "swept").glob(f"*/{FIRST_STEP}")) - started
        next_step = to_next_step(folder / "swept")
        a_bare_job = a_sweep("bare", without_pictures, ["callbacks=none"])
        commands += [a_command(seed) for seed in range(alone, 2 * alone)]
        files = sum(1 for path in (folder / "swept").rglob("*") if path.is_file())
        comparing = seconds_of([str(ROOT / "compare.py"), f"runs={folder / 'swept'}"], folder)
    a_command_takes = median(commands)

    def row(what: str, times: int, seconds: float) -> Row:
        return {"what": what, "times": times, "seconds each": seconds, "a command to it": a_command_takes / seconds}

    rows = [
        row("a command", len(commands), a_command_takes),
        row("a sweep's job", jobs, a_job),
        row("a sweep's job, callbacks=none", without_pictures, a_bare_job),
        row("from the sweep's command to its first step", 1, first_step),
        row("from a job's end to the next one's first step", jobs - 1, next_step),
        row("compare.py on the sweep", 1, comparing),
    ]
    setting = {"layout": "auto", "precision": "auto", "repeats": alone}
    claim = f"Trainings of three steps as {jobs} jobs of one sweep and as commands."
    report("sweep", claim, rows, setting, options, [f"The sweep left {files} files, {files / jobs:.1f} a job."])


if __name__ == "__main__":
    main(parse(__doc__))
