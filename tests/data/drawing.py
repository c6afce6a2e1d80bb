"""Data sets drawn for a test: red rectangles on grey noise, so that boxes are checked against pixels, in any layout."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anchorlab.data.decode import read_image
from anchorlab.data.sample import Record

HEIGHT, WIDTH = 60, 80
RED = (225, 25, 25)
Box = tuple[int, int, int, int]  # x, y, width, height
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What undoes each EXIF orientation."""


def scene(seed: int, height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, list[Box]]:
    """An image and its two objects, one in each half, none at the border."""
    rng = np.random.default_rng(seed)
    image = np.repeat(rng.integers(90, 150, (height, width, 1), np.uint8), 3, 2)
    boxes = []
    for left in (2, width // 2 + 2):
        w, h = (int(rng.integers(8, side // 2 - 6)) for side in (width, height))
        x, y = left + int(rng.integers(0, width // 2 - w - 3)), int(rng.integers(2, height - h - 2))
        image[y : y + h, x : x + w] = RED
        boxes.append((x, y, w, h))
    return image, boxes


def draw(path: Path, seed: int, orientation: int = 1, height: int = HEIGHT, width: int = WIDTH) -> list[Box]:
    """Save scene `seed` in the format of the suffix, stored so that `orientation` shows it upright; its boxes."""
    image, boxes = scene(seed, height, width)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image)
    exif = Image.Exif()
    if orientation != 1:
        picture, exif[0x0112] = picture.transpose(TURNS[orientation]), orientation
    more = {"quality": 95, "exif": exif} if path.suffix.lower() in (".jpg", ".jpeg", ".jfif") else {}
    picture.save(path, **more)
    return boxes


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def yolo(boxes: Iterable[Box], number: int = 0, height: int = HEIGHT, width: int = WIDTH) -> str:
    rows = ((x + w / 2, y + h / 2, w, h) for x, y, w, h in boxes)
    return "".join(
        f"{number} {cx / width:.6f} {cy / height:.6f} {w / width:.6f} {h / height:.6f}\n" for cx, cy, w, h in rows
    )


def voc(name: str, boxes: Iterable[Box], size: str | None = None, more: str = "", label: str = "thing") -> str:
    if size is None:
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    objects = "".join(
        f"<object><name>{label}</name>{more}<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for x, y, w, h in boxes
    )
    return f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"


def coco(rows: Sequence[tuple[str, Sequence[Box]]], height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    """COCO's content for (file name, boxes) of each image; image ids count from 1."""
    images = [{"id": i, "file_name": name, "height": height, "width": width} for i, (name, _) in enumerate(rows, 1)]
    boxes = [(i, box) for i, (_, boxes) in enumerate(rows, 1) for box in boxes]
    annotations = [
        {"id": n, "image_id": i, "category_id": 1, "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0}
        for n, (i, box) in enumerate(boxes, 1)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}


def write_coco(file: Path, folder: Path, names: Sequence[str], first: int = 0, called: str = "{}") -> None:
    """Draw images `names` in `folder`, from scene `first` on, and write their COCO file, which calls them `called`."""
    rows = [(called.format(name), draw(folder / name, first + i)) for i, name in enumerate(names)]
    write(file, json.dumps(coco(rows)))


def check_red(records: Sequence[Record], boxes_each: int = 2) -> None:
    """Every box lies on red, and no red lies outside of all boxes."""
    for record in records:
        image = read_image(record).astype(int)
        red = (image[..., 0] > 150) & (image[..., 1] < 100) & (image[..., 2] < 100)
        assert len(record.boxes) == boxes_each, record.path
        outside = red.copy()
        for x1, y1, x2, y2 in np.rint(record.boxes).astype(int):
            assert red[y1:y2, x1:x2].mean() > 0.9, (record.path, record.boxes)
            outside[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = False
        assert not outside.any(), record.path
