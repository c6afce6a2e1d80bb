"""Tables of boxes (CSV) -> entries: a row a box, with the image's name; headers of the usual names, or none at all.

`path,x1,y1,x2,y2,class`, TensorFlow's `filename,width,height,class,xmin,ymin,xmax,ymax`, `x,y,w,h` and a `bbox` in
brackets, Open Images (`XMin` and its like in shares of the image). A row without numbers is an image without boxes.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from anchorlab.data.checks import Entry, RawBox
from anchorlab.data.headers import Size, is_image
from anchorlab.data.layout import Part, Source
from anchorlab.data.named import Named, named_entries
from anchorlab.data.sample import DataError
from anchorlab.data.text import as_flag, as_side, read_text

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": (
        "filename",
        "imageid",
        "imagename",
        "imagepath",
        "path",
        "filepath",
        "file",
        "image",
        "img",
        "imgname",
        "name",
    ),
    "class": (
        "class",
        "label",
        "labelname",
        "classname",
        "category",
        "categoryname",
        "object",
        "classid",
        "categoryid",
    ),
    "x1": ("xmin", "x1", "left", "bboxx1", "xtl", "startx"),
    "y1": ("ymin", "y1", "top", "bboxy1", "ytl", "starty"),
    "x2": ("xmax", "x2", "right", "bboxx2", "xbr", "endx"),
    "y2": ("ymax", "y2", "bottom", "bboxy2", "ybr", "endy"),
    "x": ("x", "bboxx", "boxx"),
    "y": ("y", "bboxy", "boxy"),
    "w": ("w", "boxwidth", "bboxw", "bboxwidth"),
    "h": ("h", "boxheight", "bboxh", "bboxheight"),
    "bbox": ("bbox", "box"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
    "group": ("isgroupof",),
}
"""Names of columns, in small letters without separators."""
WITHOUT_HEAD = ("image", "x1", "y1", "x2", "y2", "class")
CORNERS, SIDES = ("x1", "y1", "x2", "y2"), ("x", "y", "w", "h")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class Table:
    """Rows of fields, and what each column holds."""

    columns: Mapping[str, int]
    rows: Sequence[Sequence[str]]
    shares: bool  # of the image, as Open Images has them


def read_table(text: str, most: int | None = None) -> Table | None:
    """The first rows of a table of boxes, or all of them; None of another table."""
    first = text.partition("\n")[0]
    delimiter = max(",;\t|", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    rows = [row for row, _ in zip(reader, range(most if most is not None else 1 << 62), strict=False) if any(row)]
    if not rows:
        return None
    columns = _columns(rows[0])
    if _is_complete(columns):
        shares = [name.strip() for name in rows[0]].count("XMin") == 1 and "LabelName" in [
            name.strip() for name in rows[0]
        ]
        return Table(columns, rows[1:], shares)
    if len(rows[0]) >= len(WITHOUT_HEAD) and is_image(rows[0][0]) and all(_is_number(field) for field in rows[0][1:5]):
        return Table({name: at for at, name in enumerate(WITHOUT_HEAD)}, rows, False)
    return None


def table_entries(part: Part, source: Source) -> Iterator[Entry]:
    """Images in the order of the file. A row that comes twice counts once."""
    names = _class_names(source)
    for file in part.files:
        table = read_table(read_text(file))
        if table is None:
            raise DataError(f"{file} is no table of boxes: it needs columns such as path, x1, y1, x2, y2, class")
        boxes: dict[str, list[RawBox]] = {}
        declared: dict[str, Size | None] = {}
        seen: set[tuple[str, ...]] = set()
        for number, row in enumerate(table.rows, start=2):
            image = _field(row, table, "image")
            if tuple(row) in seen or not image:
                if image:
                    source.checker.note(
                        file, f"line {number}", "the same row again, counted once", image, harmless=True
                    )
                continue
            seen.add(tuple(row))
            declared.setdefault(image, _declared_size(row, table))
            found = boxes.setdefault(image, [])
            try:
                box = _box(row, table, f"line {number}", names, source)
            except ValueError as error:
                source.checker.note(file, f"image {image}, line {number}", str(error), ",".join(row))
            else:
                found += [] if box is None else [box]
        images = {image: Named(declared[image], boxes[image]) for image in boxes}
        yield from named_entries(file, images, part, source, partly=table.shares)


def _declared_size(row: Sequence[str], table: Table) -> Size | None:
    height, width = (as_side(_field(row, table, side)) for side in ("height", "width"))
    return None if height is None or width is None else (height, width)


def _box(row: Sequence[str], table: Table, name: str, classes: Mapping[str, str], source: Source) -> RawBox | None:
    """The box of a row; None of a row without numbers, which says that an image has none."""
    columns = table.columns
    if "bbox" in columns:
        written = NUMBER.findall(_field(row, table, "bbox"))
        if len(written) not in (0, 4):
            raise ValueError("bbox is not four numbers")
        fields, as_corners = written, False
    else:
        as_corners = "x2" in columns
        fields = [_field(row, table, name) for name in (CORNERS if as_corners else SIDES)]
    if not any(fields):
        return None
    try:
        a, b, c, d = map(float, fields)
    except ValueError:
        raise ValueError("box is not four numbers") from None
    xyxy = (a, b, c, d) if as_corners else (a, b, a + c, b + d)
    label = _field(row, table, "class") or "object"
    group = table.shares and as_flag(_field(row, table, "group"))
    category = source.categories.index(classes.get(label, label))
    extent = (xyxy[2] - xyxy[0], xyxy[3] - xyxy[1])
    return RawBox(name, (a, b, c, d), extent, xyxy, category, group, shares=table.shares)


def _columns(head: Sequence[str]) -> dict[str, int]:
    """Where each of `COLUMNS` is; of several names for one thing the first of the list counts."""
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in head]
    found = {}
    for name, spellings in COLUMNS.items():
        at = next((plain.index(spelling) for spelling in spellings if spelling in plain), None)
        if at is not None:
            found[name] = at
    if "x" in found and "w" not in found and "x2" not in found and "width" in found:
        found["w"], found["h"] = found.pop("width"), found.pop("height", -1)  # x, y, width, height of the box
    return found


def _is_complete(columns: Mapping[str, int]) -> bool:
    boxes = ("bbox" in columns, set(CORNERS) <= set(columns), set(SIDES) <= set(columns))
    return "image" in columns and any(boxes)


def _field(row: Sequence[str], table: Table, name: str) -> str:
    at = table.columns.get(name)
    return row[at].strip() if at is not None and at < len(row) else ""


def _is_number(field: str) -> bool:
    return field.strip() == "" or NUMBER.fullmatch(field.strip()) is not None


def _class_names(source: Source) -> dict[str, str]:
    """Open Images' names for its labels (`/m/01g317`), where its table of them lies beside."""
    for name in source.tree.with_suffix(".csv"):
        if "class-descriptions" in name.rpartition("/")[2]:
            rows = csv.reader(io.StringIO(read_text(source.tree.path(name))))
            return {row[0]: row[1] for row in rows if len(row) >= 2}
    return {}
