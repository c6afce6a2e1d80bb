"""PASCAL VOC's XML -> entries: one file an image, corners that count pixels from 1, `difficult` boxes.

An `<object>` is an object of the image; the `<part>`s nested in it (head, hand, foot) are not.
torchvision's reader returns the parsed tree and leaves corners, difficult boxes and errors to its caller,
so that the tree is read here.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree

from anchorlab.data.checks import Entry, RawBox
from anchorlab.data.documents import Document, document_entries
from anchorlab.data.folder import TemplateReader
from anchorlab.data.layout import Difficult, Part, Source, Template
from anchorlab.data.naming import AUTO
from anchorlab.data.text import as_flag, as_side, decode_text
from anchorlab.signatures import checked

CORNERS = ("xmin", "ymin", "xmax", "ymax")
DECLARATION = re.compile(r"^\s*<\?xml[^>]*?encoding=[\"']([\w.:-]+)[\"'][^>]*\?>")
BARE_AMPERSAND = re.compile(r"&(?!#?\w+;)")


def voc_entries(part: Part, source: Source) -> Iterator[Entry]:
    return document_entries(part, source, read_xml, _describe)


def read_xml(file: Path) -> Element:
    """The root element; any encoding is read, and `&` where `&amp;` is meant.

    Raises:
        ParseError, ValueError: no XML, or XML with entities of its own, which could expand without end.
    """
    data = file.read_bytes()
    if not data.strip():
        raise ValueError("empty file")
    try:
        return defusedxml.ElementTree.fromstring(data)
    except (ParseError, ValueError, LookupError):
        pass
    declared = DECLARATION.match(data[:200].decode("latin-1"))
    try:
        text = data.decode(declared[1]) if declared else decode_text(data)
    except (UnicodeDecodeError, LookupError):
        text = decode_text(data)
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text.lstrip("\ufeff"))
    return defusedxml.ElementTree.fromstring(BARE_AMPERSAND.sub("&amp;", text))


def _describe(root: Element, file: Path, where: str, source: Source) -> Document:
    height, width = (as_side(root.findtext(f"size/{side}", "").strip()) for side in ("height", "width"))
    declared = None if height is None or width is None else (height, width)
    name = root.findtext("filename") or root.findtext("path") or file.stem
    return Document(name, declared, _boxes(root, file, where, source))


def _boxes(root: Element, file: Path, where: str, source: Source) -> Iterator[RawBox]:
    for number, node in enumerate(root.findall("object"), start=1):
        category = node.findtext("name", "").strip()
        name = f"object {number} ({category})"
        difficult = _is_difficult(node)
        if difficult and source.difficult == "drop":
            continue
        if not category:
            source.checker.note(file, f"{where}, {name}", "object without a name")
            continue
        ignore = difficult and source.difficult == "ignore"
        for written in _corners(node, file, f"{where}, {name}", source):
            xmin, ymin, xmax, ymax = written
            yield RawBox(
                name=name,
                written=written,
                extent=(xmax - xmin, ymax - ymin),
                xyxy=(_from_one(xmin), _from_one(ymin), xmax, ymax),
                category=source.categories.index(category),
                ignore=ignore,
            )


def _is_difficult(node: Element) -> bool:
    """Some tools write a word or a capital; what is no yes is no."""
    for child in node:
        if child.tag.lower() == "difficult":
            try:
                return as_flag(child.text)
            except ValueError:
                return False
    return False


def _corners(node: Element, file: Path, where: str, source: Source) -> Iterator[tuple[float, float, float, float]]:
    """The corners of every box of an object; of one that has a polygon instead, those around it."""
    boxes = node.findall("bndbox")
    if not boxes and node.find("polygon") is not None:
        points = [(child.tag, child.text or "") for child in node.iterfind("polygon//*") if child.text]
        xs, ys = ([text for tag, text in points if tag.lower().startswith(axis)] for axis in "xy")
        try:
            yield min(map(float, xs)), min(map(float, ys)), max(map(float, xs)), max(map(float, ys))
        except ValueError:
            source.checker.note(file, where, "polygon is no list of points", points)
        return
    for box in boxes or [Element("bndbox")]:
        corners = [box.findtext(corner, "") for corner in CORNERS]
        try:
            xmin, ymin, xmax, ymax = map(float, corners)
        except ValueError:
            source.checker.note(file, where, "corners are not four numbers", corners)
            continue
        yield xmin, ymin, xmax, ymax


def _from_one(corner: float) -> float:
    """1-based to 0-based. A 0 stays 0: tools that count from 0 write it, and no pixel lies before it."""
    return max(corner - 1, min(corner, 0.0))


@checked
class VocReader(TemplateReader):
    """Reads VOC's XML from wherever it lies, or from where `images` and `annotations` say; see `TemplateReader`.

    Args:
        difficult: "ignore": difficult boxes are neither object nor background; "keep": as any other;
            "drop": as if they were not there.

    The image of `<stem>.xml` is `<stem>.jpg` (or another suffix), else the `<filename>` the annotation names. The
    lists `ImageSets/Main/<split>.txt` divide it where there are any. Image ids are stems. Corners become
    (xmin - 1, ymin - 1, xmax, ymax): 1-based inclusive to 0-based exclusive.
    """

    format = "voc"
    usual = Template("JPEGImages", "Annotations")

    def __init__(
        self,
        images: str | None = None,
        annotations: str | None = None,
        train: str | None = AUTO,
        val: str | None = AUTO,
        test: str | None = AUTO,
        difficult: Difficult = "ignore",
        *,
        root: str | Path,
    ):
        super().__init__(images, annotations, train, val, test, root=root)
        self.difficult = difficult
