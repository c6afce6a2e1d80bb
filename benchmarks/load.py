"""Benchmark of a large data set: study.py, an epoch of train.py and evaluate.py on 120,000 images with a million boxes.

Each command is a process of its own, without loading processes, so that its peak memory is all there is; the same on a
tenth of the images says what grows. Images are links to a few very small files, so that an epoch takes minutes: what
is measured is what a command keeps for each image and box, not decoding.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Options, Row, parse, report, set_threads
from benchmarks.start import run

ROOT = Path(__file__).parents[1]
IMAGES, QUICK = (12_000, 120_000), (100, 200)
BOXES, VALIDATION = 8.34, 100  # boxes an image in the mean; images that an epoch ends with
FILES = 50  # drawn; the others are links to them, of which file systems allow some ten thousand each
HEIGHT, WIDTH = 48, 64
MEASURED = f"""
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
sys.path.insert(0, {str(ROOT)!r})
from benchmarks.measure import peak_mib
print("PEAK", peak_mib(), file=sys.stderr)
"""
SETTINGS = (
    *("data=coco", f"data.long={WIDTH}", "data.pad_to=32", "data.batch_size=64", "data.workers=0"),
    *("backbone=tiny", "anchor.sizes=[6,12,24]"),
)


def draw(root: Path, images: int) -> int:
    """A data set in COCO's layout; how many boxes its training images have."""
    rng = np.random.default_rng(0)
    sources = []
    for number in range(FILES):
        sources.append(root / f"{number}.jpg")
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(sources[-1])
    _draw_split(root, "val", min(images, VALIDATION), sources, rng)
    return _draw_split(root, "train", images, sources, rng)


def _draw_split(root: Path, split: str, images: int, sources: list[Path], rng: np.random.Generator) -> int:
    folder = root / "images" / split
    folder.mkdir(parents=True)
    counts = rng.poisson(BOXES, images)
    corners = rng.integers(0, (WIDTH - 24, HEIGHT - 24), (counts.sum(), 2))
    sides = rng.integers(3, 24, (counts.sum(), 2))
    boxes = np.hstack([corners, sides]).tolist()
    of_image = np.repeat(np.arange(images), counts).tolist()
    names = [f"{image:06d}.jpg" for image in range(images)]
    for image, name in enumerate(names):
        (folder / name).hardlink_to(sources[image % FILES])
    content = {
        "images": [
            {"id": image, "file_name": name, "height": HEIGHT, "width": WIDTH} for image, name in enumerate(names)
        ],
        "annotations": [
            {"id": i + 1, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (image, box) in enumerate(zip(of_image, boxes, strict=True))
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return len(boxes)


def measured(words: list[str], folder: Path) -> tuple[float, float]:
    """(seconds, peak MiB) of a command from its start to its end."""
    started = time.perf_counter()
    printed = run(["-c", MEASURED, *words], folder)
    return time.perf_counter() - started, float(printed.rpartition("PEAK ")[2])


def main(options: Options) -> None:
    threads = options.threads or 1
    set_threads(threads)
    rows: list[Row] = []
    for images in QUICK if options.quick else IMAGES:
        with tempfile.TemporaryDirectory(prefix="load-") as scratch:
            folder = Path(scratch)
            data = folder / "data"
            data.mkdir()
            boxes = draw(data, images)
            trained, same = folder / "run", [*SETTINGS, f"data.root={data}"]
            commands = {
                "study.py": ["study.py", *same, f"hydra.run.dir={folder / 'study'}"],
                "train.py, an epoch": [
                    *("train.py", *same, f"hydra.run.dir={trained}", "trainer.epochs=1", "logger=csv"),
                    *(f"trainer.threads={threads}", "trainer.precision=32"),
                ],
                "evaluate.py, all images": [
                    *("evaluate.py", f"run={trained}", "eval.split=train", f"hydra.run.dir={folder / 'scored'}"),
                ],
            }
            for name, (script, *words) in commands.items():
                seconds, peak = measured([str(ROOT / script), *words], folder)
                row = {"command": name, "images": images, "boxes": boxes, "s": seconds, "peak MiB": peak}
                rows.append(row | {"KiB a box above the smaller set": _growth(rows, row)})
    setting = {"layout": "auto", "precision": "float32", "repeats": 1}
    report("load", "What whole commands take and keep in memory on a large data set.", rows, setting, options)


def _growth(rows: list[Row], row: Row) -> float | str:
    """What each box more adds to the peak of the same command."""
    smaller = next((other for other in rows if other["command"] == row["command"]), None)
    if smaller is None:
        return ""
    return 1024 * (row["peak MiB"] - smaller["peak MiB"]) / (row["boxes"] - smaller["boxes"])


if __name__ == "__main__":
    main(parse(__doc__))
