"""A comparison of hundreds of runs on thousands of images, from their folders to the page: seconds and peak memory."""

import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from anchorlab.comparing.comparison import Question, compare
from anchorlab.comparing.page import as_page
from anchorlab.comparing.report import as_csv, as_markdown
from anchorlab.comparing.scores import read_runs
from anchorlab.metrics.from_ranks import AREA_RANGES, THRESHOLDS, UNMATCHED
from anchorlab.runs.record import RunRecord
from benchmarks.measure import Options, Row, parse, peak_mib, report, set_threads

CLAIM = "compare.py from run folders to comparison.csv, .md and .html: under 30 s and 2 GiB for 500 runs x 5,000 images"
SIZES = ((100, 5000), (500, 5000))
QUICK = ((6, 40),)
BOXES, SEEDS, LOGGED = 7, 2, 100


def write_runs(root: Path, runs: int, images: int) -> None:
    """Runs of `SEEDS` seeds a setting: config, run.json, 100 logged steps, ranks of `BOXES` boxes an image."""
    rng = np.random.default_rng(0)
    counted = np.ones((images * BOXES, len(AREA_RANGES)), dtype=bool)
    counted[:, 1:] = rng.permuted(np.tile(np.eye(3, dtype=bool)[0], (len(counted), 1)), axis=1)
    hardness = rng.random((len(counted), 1, 1)) + np.linspace(0, 1, len(THRESHOLDS))[:, None]
    # One file for all runs of a score: writing it costs more than what is measured.
    arrays = {}
    for quality in range(8):
        rank = rng.geometric(0.02, (len(counted), 1, 1)) * np.exp(2 * hardness)
        lost = hardness > 1 + 0.03 * quality
        rank = np.where(lost | ~counted[:, None], UNMATCHED, np.minimum(rank, 999)).astype(np.int32)
        record = RunRecord(root / "written" / str(quality))
        shared = {"index": np.arange(images), "num_boxes": np.full(images, BOXES, np.int32)}
        axes = {"thresholds": THRESHOLDS, "areas": np.array(list(AREA_RANGES)), "budgets": np.array([10, 100, 1000])}
        ids = [f"{image:012d}" for image in range(images)]
        record.write_recall({**shared, "rank": rank, "counted": counted, **axes}, ids)
        arrays[quality] = (record.folder / "recall.npz").read_bytes()
    curve = "step,epoch,train/loss,val/AR_100\n" + "".join(
        f"{step},{step // 10},{1 / (1 + step)},0.5\n" for step in range(LOGGED)
    )
    for number in range(runs):
        record = RunRecord(root / "runs" / str(number))
        record.start(config(number), number % SEEDS)
        record.add(axes={"k": number // SEEDS, "anchors_per_image": 100 * number}, timings={"fit_s": 60.0})
        record.finish()
        (record.folder / "recall.npz").write_bytes(arrays[number % 8])
        (record.folder / "metrics.csv").write_text(curve)


def config(number: int) -> dict[str, Any]:
    """About as many leaves as a real one has."""
    groups = {f"group{i}": {f"key{j}": j / 7 for j in range(12)} for i in range(11)}
    return {"seed": number % SEEDS, "data": {"root": "/data/coco"}, "anchor": {"k": number // SEEDS}, **groups}


def measured(root: Path, threads: int, answer: Any) -> None:
    """In a process of its own: seconds, and the peak of all its memory."""
    set_threads(threads)
    started = time.perf_counter()
    runs, _ = read_runs(str(root / "runs"))
    read = time.perf_counter()
    comparison = compare(runs, Question())
    compared = time.perf_counter()
    sizes = [len(text) for text in (as_csv(comparison), as_markdown(comparison), as_page(comparison))]
    ended = time.perf_counter()
    peak = peak_mib() / 2**10
    parts = {"read s": read - started, "compare s": compared - read, "write s": ended - compared}
    answer.put({"seconds": ended - started, **parts, "peak GiB": peak, "page MB": sizes[-1] / 1e6})


def main(options: Options) -> None:
    threads = options.threads or 2
    rows: list[Row] = []
    for runs, images in QUICK if options.quick else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            write_runs(Path(folder), runs, images)
            context = multiprocessing.get_context("spawn")  # a fork would start with this process's memory
            answer = context.Queue()
            process = context.Process(target=measured, args=(Path(folder), threads, answer))
            process.start()
            result = answer.get()
            process.join()
        rows.append({"runs": runs, "images": images, "boxes": images * BOXES} | result)
    kept = rows[-1]["seconds"] < 30 and rows[-1]["peak GiB"] < 2
    notes = [] if options.quick else [f"Under 30 s and 2 GiB: {'yes' if kept else 'NO'}."]
    setting = {"layout": "run folders on disk", "precision": "float64", "repeats": 1, "resamples": 10_000}
    report("comparison", CLAIM, rows, setting | {"threads": threads}, options, notes)


if __name__ == "__main__":
    main(parse(__doc__))
