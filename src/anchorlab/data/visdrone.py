"""VisDrone's text labels -> entries: `left,top,width,height,score,category,truncation,occlusion`.

Regions of category 0, and boxes of score 0, are not to be judged by: they are ignored.
"""

from collections.abc import Iterator

from anchorlab.data.checks import Entry, RawBox
from anchorlab.data.labels import Row, label_entries, numbers
from anchorlab.data.layout import Part, Source

NUM_FIELDS = 8
CATEGORIES = (
    "ignored regions",
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
    "others",
)


def visdrone_entries(part: Part, source: Source) -> Iterator[Entry]:
    def parse(row: Row, name: str) -> RawBox:
        if len(row) != NUM_FIELDS:
            raise ValueError(f"{len(row)} fields, not VisDrone's {NUM_FIELDS}")
        x, y, width, height, score, category = numbers(row[:6])
        if not 0 <= category < len(CATEGORIES):
            raise ValueError(f"unknown category {category:g}")
        index = source.categories.index(CATEGORIES[int(category)])
        ignore = category == 0 or score == 0
        return RawBox(name, (x, y, width, height), (width, height), (x, y, x + width, y + height), index, ignore)

    return label_entries(part, source, parse, between_commas)


def between_commas(line: str) -> list[str]:
    """Fields; a comma at the end of the line is usual."""
    return [field.strip() for field in line.strip().strip(",").split(",")]


def is_visdrone(row: Row) -> bool:
    """Eight whole numbers between commas."""
    fields = between_commas("".join(row))
    return len(fields) == NUM_FIELDS and all(field.lstrip("-").isdigit() for field in fields)
