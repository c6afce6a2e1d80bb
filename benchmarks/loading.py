"""Annotations of 120,000 generated images to checked records, beside others' readers: time, and memory at its peak.

The same objects as COCO, YOLO and VOC, seven an image, on very small images, so that what is measured is reading and
checking and not the disk. pycocotools reads the JSON and builds its index; it opens no image. Ultralytics, where it is
installed, checks its YOLO labels and the header of every image on its first reading, as ours does in each. Ours reads
every image's header, looks whether the file is whole, and checks each box; `annotations` is ours without the headers.
"""

import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from benchmarks.measure import Options, Row, parse, peak_mib, report, resident_mib

CLAIM = "What reading and checking a data set costs, image headers included, beside reading its JSON alone."
IMAGES, QUICK, EACH = 120_000, 300, 7
LINKS = 20_000  # to one file: file systems have a limit
HEIGHT, WIDTH = 48, 64
FORMATS = ("coco", "yolo", "voc")


def draw(root: Path, images: int) -> None:
    """One data set in each format; images are links to a few files."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    source = root
    content: dict = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for folder in ("coco/images", "yolo/images", "yolo/labels", "voc/images", "voc/annotations"):
        (root / folder).mkdir(parents=True)
    corners = rng.integers(0, 24, (images, EACH, 2))
    corners[..., 0] = 3 * np.arange(EACH) + rng.integers(0, 3, (images, EACH))  # no box twice: lines would count once
    sides = rng.integers(4, 20, (images, EACH, 2))
    for i in range(images):
        name = f"{i:012d}"
        if i % LINKS == 0:
            source = root / f"{i}.jpg"
            picture.save(source)
        for format in FORMATS:
            (root / format / "images" / f"{name}.jpg").hardlink_to(source)
        boxes = np.hstack([corners[i], sides[i]]).tolist()
        content["images"].append({"id": i, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH})
        rows, objects = [], []
        for x, y, w, h in boxes:
            number = len(content["annotations"]) + 1
            row = {"id": number, "image_id": i, "category_id": 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            content["annotations"].append(row)
            rows.append(f"0 {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}\n")
            box = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
            objects.append(f"<object><name>thing</name><bndbox>{box}</bndbox></object>")
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        (root / f"yolo/labels/{name}.txt").write_text("".join(rows))
        (root / f"voc/annotations/{name}.xml").write_text(f"<annotation>{size}{''.join(objects)}</annotation>")
    (root / "coco/instances.json").write_text(json.dumps(content))


def ours(root: Path) -> int:
    from anchorlab.data.auto import AutoReader

    records, problems = AutoReader(root=root).read("train")
    assert not problems
    return sum(len(record.boxes) for record in records)


def ours_without_headers(root: Path) -> int:
    from anchorlab.data import folder
    from anchorlab.data.headers import Header

    with patch.object(folder, "read_header", lambda *_: Header(HEIGHT, WIDTH)):
        return ours(root)


def pycocotools(root: Path) -> int:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return len(COCO(str(root / "instances.json")).anns)


def ultralytics(root: Path) -> int:
    from ultralytics.data.dataset import YOLODataset  # pyright: ignore[reportMissingImports]

    with contextlib.redirect_stdout(io.StringIO()):
        classes = {"names": {0: "thing"}, "nc": 1, "channels": 3}
        labels = YOLODataset(img_path=str(root / "images"), data=classes, task="detect", augment=False).labels
    return sum(len(label["bboxes"]) for label in labels)


LOADERS: dict[str, Callable[[Path], int]] = {
    "ours": ours,
    "annotations": ours_without_headers,
    "pycocotools": pycocotools,
    "ultralytics": ultralytics,
}


def measured(loader: str, root: Path) -> tuple[float, float, int]:
    """(seconds, MiB above what the process had before, boxes) of a loader in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loading", "--alone", loader, str(root)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, memory, boxes = printed.splitlines()[-1].split()  # behind what the library says of itself
    return float(seconds), float(memory), int(boxes)


def alone(loader: str, root: Path) -> None:
    import anchorlab.data.auto  # imports are no part of it

    assert anchorlab.data.auto is not None
    if loader == "pycocotools":
        import pycocotools.coco  # noqa: F401
    if loader == "ultralytics":
        import ultralytics.data.dataset  # noqa: F401  # pyright: ignore[reportMissingImports]
    before, started = resident_mib(), time.perf_counter()
    boxes = LOADERS[loader](root)
    print(time.perf_counter() - started, peak_mib() - before, boxes)


def main(options: Options) -> None:
    images = QUICK if options.quick else IMAGES
    root = Path(tempfile.mkdtemp(prefix="loading-"))
    try:
        draw(root, images)
        theirs = measured("pycocotools", root / "coco")
        rows: list[Row] = [_row("pycocotools, coco", images, theirs, theirs)]
        if find_spec("ultralytics"):
            rows.append(_row("ultralytics, yolo", images, measured("ultralytics", root / "yolo"), theirs))
        for format in FORMATS:
            for loader in ("ours", "annotations"):
                found = measured(loader, root / format)
                assert found[2] == theirs[2], "the same boxes"
                rows.append(_row(f"{loader}, {format}", images, found, theirs))
        setting = {"layout": f"{EACH} boxes an image, {WIDTH} x {HEIGHT} pixels", "precision": "float64", "repeats": 1}
        notes = ["Memory is what loading adds to the peak of a process of its own, whose imports are done."]
        report("loading", CLAIM, rows, setting, options, notes)
    finally:
        shutil.rmtree(root)


def _row(name: str, images: int, found: tuple[float, float, int], theirs: tuple[float, float, int]) -> Row:
    return {
        "loader": name,
        "images": images,
        "boxes": found[2],
        "seconds": round(found[0], 2),
        "MiB": round(found[1]),
        "time / pycocotools": round(found[0] / theirs[0], 2),
        "memory / pycocotools": round(found[1] / max(theirs[1], 1), 2),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        alone(sys.argv[2], Path(sys.argv[3]))
    else:
        main(parse(__doc__))
