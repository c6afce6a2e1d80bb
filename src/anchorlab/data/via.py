"""VGG Image Annotator's JSON -> entries: all images in one file, regions by their bounding boxes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anchorlab.data.checks import Entry, RawBox
from anchorlab.data.layout import Part, Source
from anchorlab.data.named import Named, named_entries
from anchorlab.data.sample import DataError
from anchorlab.data.text import as_number, read_text

PROJECT = "_via_img_metadata"


def via_entries(part: Part, source: Source) -> Iterator[Entry]:
    for file in part.files:
        try:
            content = json.loads(read_text(file))
            rows = list(content.get(PROJECT, content).values())
            images = {str(row["filename"]): Named(None, list(_boxes(row, file, source))) for row in rows}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file} is no VIA file: {error}") from None
        yield from named_entries(file, images, part, source)


def _boxes(row: Mapping[str, Any], file: Path, source: Source) -> Iterator[RawBox]:
    regions = row.get("regions") or []
    for number, region in enumerate(regions.values() if isinstance(regions, dict) else regions, start=1):
        name, where = f"region {number}", f"image {row['filename']}, region {number}"
        shape = region.get("shape_attributes") or {}
        try:
            x1, y1, x2, y2 = _around(shape)
        except (KeyError, TypeError, ValueError):
            source.checker.note(file, where, "region is no rectangle, polygon, circle or ellipse", shape)
            continue
        if shape["name"] in ("point", "line", "polyline"):
            source.checker.note(file, where, f"a {shape['name']} has no box, left out", harmless=True)
            continue
        category = source.categories.index(_label(region.get("region_attributes") or {}))
        yield RawBox(name, (x1, y1, x2, y2), (x2 - x1, y2 - y1), (x1, y1, x2, y2), category)


def _around(shape: Mapping[str, Any]) -> tuple[float, float, float, float]:
    if shape["name"] == "rect":
        x, y, width, height = (as_number(shape[key]) for key in ("x", "y", "width", "height"))
        return x, y, x + width, y + height
    if shape["name"] in ("circle", "ellipse"):
        x, y = as_number(shape["cx"]), as_number(shape["cy"])
        rx, ry = (as_number(shape.get(key, shape.get("r"))) for key in ("rx", "ry"))
        return x - rx, y - ry, x + rx, y + ry
    if shape["name"] == "point":
        x, y = as_number(shape["cx"]), as_number(shape["cy"])
        return x, y, x, y
    xs, ys = (list(map(as_number, shape[f"all_points_{axis}"])) for axis in "xy")
    return min(xs), min(ys), max(xs), max(ys)


def _label(attributes: Mapping[str, Any]) -> str:
    """The first attribute's value; of boxes to tick, the first that is ticked."""
    for value in attributes.values():
        if isinstance(value, dict):
            return next((str(key) for key, ticked in value.items() if ticked), "object")
        if value not in ("", None):
            return str(value).strip()
    return "object"
