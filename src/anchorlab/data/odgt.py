"""CrowdHuman's odgt -> entries: a JSON object a line, an image with its boxes; full boxes, which reach over the border.

Of a person the full box counts (`fbox`), as in the benchmark; masks and what is marked `ignore` are ignored regions.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anchorlab.data.checks import Entry, RawBox
from anchorlab.data.layout import Part, Source
from anchorlab.data.named import Named, named_entries
from anchorlab.data.text import as_flag, as_number, read_lines

BOXES = ("fbox", "vbox", "hbox")


def odgt_entries(part: Part, source: Source) -> Iterator[Entry]:
    for file in part.files:
        images = {}
        for number, line in enumerate(read_lines(file), start=1):
            if line:
                try:
                    content = json.loads(line)
                    images[str(content["ID"])] = Named(None, list(_boxes(content, file, source)))
                except (ValueError, KeyError, TypeError, AttributeError):
                    source.checker.note(file, f"line {number}", "no JSON object with an ID", line[:80])
        yield from named_entries(file, images, part, source)


def _boxes(content: dict[str, Any], file: Path, source: Source) -> Iterator[RawBox]:
    for number, row in enumerate(content.get("gtboxes") or (), start=1):
        tag = str(row.get("tag", "object"))
        written = next((row[key] for key in BOXES if key in row), None)
        try:
            x, y, width, height = map(as_number, written or ())
            ignore = tag == "mask" or as_flag((row.get("extra") or {}).get("ignore"))
        except ValueError:
            source.checker.note(file, f"image {content['ID']}, box {number}", "no box of four numbers", written)
            continue
        category = source.categories.index(tag)
        xyxy = (x, y, x + width, y + height)
        yield RawBox(f"box {number}", (x, y, width, height), (width, height), xyxy, category, ignore)
