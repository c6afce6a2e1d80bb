"""labelme's JSON -> entries: a file an image, shapes by their bounding boxes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anchorlab.data.checks import Entry, RawBox
from anchorlab.data.labels import ids_of
from anchorlab.data.layout import Part, Source
from anchorlab.data.names import ImageNames
from anchorlab.data.text import as_number, as_side, read_text

WITHOUT_EXTENT = ("point", "points", "line", "linestrip")


def labelme_entries(part: Part, source: Source) -> Iterator[Entry]:
    names = ImageNames(source.tree, part.folders)
    ids = ids_of([file for _, file in part.pairs if file is not None])
    for image, file in part.pairs:
        if file is None:
            continue
        where = f"image {ids[file]}"
        try:
            content = json.loads(read_text(file))
        except (OSError, ValueError) as error:
            source.checker.note(file, where, "unreadable annotation", str(error))
            continue
        path = image or names.find(str(content.get("imagePath") or file.stem))
        if path is None:
            source.checker.note(file, where, f"missing image; looked in {names.tried()}", content.get("imagePath"))
            continue
        size = as_side(content.get("imageHeight")), as_side(content.get("imageWidth"))
        declared = None if size[0] is None or size[1] is None else (size[0], size[1])
        yield Entry(file, ids[file], path, declared, list(_boxes(content, file, where, source)))


def _boxes(content: Mapping[str, Any], file: Path, where: str, source: Source) -> Iterator[RawBox]:
    shapes: list[dict[str, Any]] = content.get("shapes") or []
    for number, shape in enumerate(shapes, start=1):
        label = str(shape.get("label") or "object")
        name = f"shape {number} ({label})"
        kind = shape.get("shape_type") or "polygon"
        if kind in WITHOUT_EXTENT:
            source.checker.note(file, f"{where}, {name}", f"a {kind} has no box, left out", harmless=True)
            continue
        try:
            outline = _outline([(as_number(x), as_number(y)) for x, y in shape["points"]], kind)
            if not outline:
                raise ValueError("no points")
        except (KeyError, TypeError, ValueError):
            source.checker.note(file, f"{where}, {name}", "points are no list of pairs", shape.get("points"))
            continue
        xs, ys = [x for x, _ in outline], [y for _, y in outline]
        xyxy = (min(xs), min(ys), max(xs), max(ys))
        extent = (xyxy[2] - xyxy[0], xyxy[3] - xyxy[1])
        yield RawBox(name, xyxy, extent, xyxy, source.categories.index(label))


def _outline(points: list[tuple[float, float]], kind: str) -> list[tuple[float, float]]:
    """Points whose bounding box is the shape's; a circle is its centre and a point of its edge."""
    if kind != "circle":
        return points
    (x, y), (edge_x, edge_y) = points
    radius = ((edge_x - x) ** 2 + (edge_y - y) ** 2) ** 0.5
    return [(x - radius, y - radius), (x + radius, y + radius)]
