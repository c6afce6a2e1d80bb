"""Benchmark of a sweep: seconds for each of 300 small jobs, and for the same trainings as commands; then compare.py.

Each job trains three steps on eight small images and scores two, so that what is left is what a job costs beside its
training: starting, data, records, pictures. All have the same threads; the commands run before and after the sweep.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.measure import Options, parse, report, set_threads
from benchmarks.start import SMALL, run

ROOT = Path(__file__).parents[1]
JOBS, QUICK_JOBS = 300, 2
SETTINGS = (
    *("data=synthetic", *SMALL, "data.batch_size=4", "data.workers=0", "backbone=tiny"),
    *("trainer.max_steps=3", "trainer.epochs=2", "logger=csv"),
)


def seconds_of(arguments: Sequence[str], folder: Path) -> float:
    started = time.perf_counter()
    run(list(arguments), folder)
    return time.perf_counter() - started


def main(options: Options) -> None:
    threads = options.threads or 1
    set_threads(threads)
    jobs, alone = (QUICK_JOBS, 1) if options.quick else (JOBS, options.num_repeats(5))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train = [str(ROOT / "train.py"), *SETTINGS, f"data.root={folder / 'drawn'}", f"trainer.threads={threads}"]

        def a_command(seed: int) -> float:
            return seconds_of([*train, f"seed={seed}", f"hydra.run.dir={folder / str(seed)}"], folder)

        a_command(2 * alone)  # draws the data; does not count
        commands = [a_command(seed) for seed in range(alone)]
        swept = folder / "swept"
        seeds = ",".join(map(str, range(jobs)))
        whole = seconds_of([*train, "-m", f"seed={seeds}", f"hydra.sweep.dir={swept}"], folder)
        commands += [a_command(seed) for seed in range(alone, 2 * alone)]
        finished = [json.loads(file.read_text())["status"] for file in swept.glob("*/run.json")].count("finished")
        files = sum(1 for path in swept.rglob("*") if path.is_file())
        comparing = seconds_of([str(ROOT / "compare.py"), f"runs={swept}"], folder)
    assert finished == jobs, f"{finished} of {jobs} jobs finished"
    a_job = whole / jobs
    rows = [
        {"what": "a command", "times": len(commands), "seconds each": median(commands), "commands to jobs": ""},
        {"what": "a sweep's job", "times": jobs, "seconds each": a_job, "commands to jobs": median(commands) / a_job},
        {"what": "compare.py on the sweep", "times": 1, "seconds each": comparing, "commands to jobs": ""},
    ]
    setting = {"layout": "auto", "precision": "auto", "repeats": alone}
    claim = f"Trainings of three steps as {jobs} jobs of one sweep and as commands."
    report("sweep", claim, rows, setting, options, [f"The sweep left {files} files, {files / jobs:.1f} a job."])


if __name__ == "__main__":
    main(parse(__doc__))
