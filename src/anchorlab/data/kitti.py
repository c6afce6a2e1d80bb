"""KITTI's text labels -> entries: a line an object, its 2D box in columns 5 to 8; `DontCare` regions are ignored."""

from collections.abc import Iterator

from anchorlab.data.checks import Entry, RawBox
from anchorlab.data.labels import Row, label_entries, numbers
from anchorlab.data.layout import Part, Source

FIELDS = (15, 16)  # without and with a score
REGION = "DontCare"


def kitti_entries(part: Part, source: Source) -> Iterator[Entry]:
    def parse(row: Row, name: str) -> RawBox:
        if len(row) not in FIELDS:
            raise ValueError(f"{len(row)} fields, not KITTI's {FIELDS[0]}")
        x1, y1, x2, y2 = numbers(row[4:8])
        category = source.categories.index(row[0])
        return RawBox(name, (x1, y1, x2, y2), (x2 - x1, y2 - y1), (x1, y1, x2, y2), category, row[0] == REGION)

    return label_entries(part, source, parse)


def is_kitti(row: Row) -> bool:
    """A word, and numbers behind it."""
    try:
        numbers(row[1:])
    except ValueError:
        return False
    return len(row) in FIELDS and not row[0].replace(".", "").isdigit()
