"""DOTA's text labels -> entries: the upright box around `x1 y1 x2 y2 x3 y3 x4 y4 category difficult`, in pixels."""

from collections.abc import Iterator

from anchorlab.data.checks import Entry, RawBox
from anchorlab.data.labels import Row, label_entries, numbers
from anchorlab.data.layout import Part, Source
from anchorlab.data.text import as_flag

NUM_CORNERS = 8
HEAD = ("imagesource:", "gsd:")


def dota_entries(part: Part, source: Source) -> Iterator[Entry]:
    def parse(row: Row, name: str) -> RawBox | None:
        if row[0].lower().startswith(HEAD):
            return None
        if len(row) <= NUM_CORNERS:
            raise ValueError(f"{len(row)} fields, not four corners and a category")
        difficult = len(row) > NUM_CORNERS + 1 and as_flag(row[NUM_CORNERS + 1])
        if difficult and source.difficult == "drop":
            return None
        corners = numbers(row[:NUM_CORNERS])
        xs, ys = corners[0::2], corners[1::2]
        xyxy = (min(xs), min(ys), max(xs), max(ys))
        category = source.categories.index(row[NUM_CORNERS])
        ignore = difficult and source.difficult == "ignore"
        return RawBox(name, tuple(corners), (xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]), xyxy, category, ignore)

    source.remarks.append("oriented boxes count by the upright boxes around them")
    return label_entries(part, source, parse)


def is_dota(row: Row) -> bool:
    """A head line, or eight numbers and a word."""
    if row[0].lower().startswith(HEAD):
        return True
    try:
        numbers(row[:NUM_CORNERS])
    except ValueError:
        return False
    return len(row) > NUM_CORNERS and not row[NUM_CORNERS].replace(".", "").replace("-", "").isdigit()
