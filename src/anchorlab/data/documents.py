"""Formats with a document for each image, VOC's XML and labelme's JSON: opened, their faults noted, their images found.

What a document says is the format's part (voc.py, labelme.py).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from anchorlab.data.checks import Entry, RawBox
from anchorlab.data.headers import Size
from anchorlab.data.labels import ids_of
from anchorlab.data.layout import Part, Source
from anchorlab.data.names import ImageNames

Content = TypeVar("Content")


@dataclass(frozen=True)
class Document:
    """What a document says of its image: the file's name, the size where it is given, and the boxes."""

    image: str
    declared: Size | None
    boxes: Iterable[RawBox]


def document_entries(
    part: Part,
    source: Source,
    read: Callable[[Path], Content],
    describe: Callable[[Content, Path, str, Source], Document],
) -> Iterator[Entry]:
    """Images in the order of the part, boxes in that of their file. Ids are stems, or paths where stems repeat.

    Args:
        read: opens a file; OSError, ValueError, or a parser's SyntaxError where it cannot be read.
        describe: of (content, file, what problems call the image, source).
    """
    names = ImageNames(source.tree, part.folders)
    ids = ids_of([file for _, file in part.pairs if file is not None])
    for image, file in part.pairs:
        if file is None:
            continue
        where = f"image {ids[file]}"
        try:
            content = read(file)
        except FileNotFoundError:
            source.checker.note(file, where, "missing annotation")
            continue
        except (OSError, SyntaxError, ValueError) as error:
            source.checker.note(file, where, "unreadable annotation", str(error))
            continue
        document = describe(content, file, where, source)
        path = image or names.find(document.image)
        if path is None:
            source.checker.note(file, where, f"missing image; looked in {names.tried()}", document.image)
            continue
        yield Entry(file, ids[file], path, document.declared, list(document.boxes))
