"""labelme's JSON -> entries: a file an image, shapes by their bounding boxes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anchorlab.data.checks import Entry, RawBox
from anchorlab.data.documents import Document, document_entries
from anchorlab.data.layout import Part, Source
from anchorlab.data.text import as_number, as_side, read_text

WITHOUT_EXTENT = ("point", "points", "line", "linestrip")


def labelme_entries(part: Part, source: Source) -> Iterator[Entry]:
    return document_entries(part, source, read_json, _describe)


def read_json(file: Path) -> dict[str, Any]:
    """The object of the file; ValueError where there is none, or one without a list of shapes."""
    content = json.loads(read_text(file))
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise ValueError("no JSON object with a list of shapes")
    return content


def _describe(content: Mapping[str, Any], file: Path, where: str, source: Source) -> Document:
    height, width = as_side(content.get("imageHeight")), as_side(content.get("imageWidth"))
    declared = None if height is None or width is None else (height, width)
    return Document(str(content.get("imagePath") or file.stem), declared, _boxes(content, file, where, source))


def _boxes(content: Mapping[str, Any], file: Path, where: str, source: Source) -> Iterator[RawBox]:
    for number, shape in enumerate(content["shapes"], start=1):
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
