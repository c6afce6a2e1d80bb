"""Formats whose rows name their image: a table of boxes, a JSON line an image -> entries, in the order of the file.

What a row means is the format's part (table.py, odgt.py, via.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anchorlab.data.checks import Entry, RawBox
from anchorlab.data.headers import Size
from anchorlab.data.labels import ids_of
from anchorlab.data.layout import Part, Source
from anchorlab.data.names import ImageNames


@dataclass(frozen=True)
class Named:
    """What a file says of one image."""

    declared: Size | None
    boxes: Sequence[RawBox]


def named_entries(
    file: Path, images: Mapping[str, Named], part: Part, source: Source, partly: bool = False
) -> Iterator[Entry]:
    """The images of a file by the names that it gives them; those that are not there are one problem.

    Args:
        partly: the file is about more images than anybody has on disk: those that are missing are only counted.
    """
    names = ImageNames(source.tree, part.folders, part.anywhere)
    names.settle(list(images))
    paths = {name: path for name in images if (path := names.find(name)) is not None}
    ids = ids_of(list(dict.fromkeys(paths.values())))
    for name, path in paths.items():
        yield Entry(file, ids[path], path, images[name].declared, images[name].boxes)
    count = len(names.missing)
    if count and partly and paths:
        source.remarks.append(f"{file.name} is about {count:,} more images that are not here")
    elif count:
        examples = ", ".join(names.missing[:3]) + (", ..." if count > 3 else "")
        message = f"{count:,} of {len(images):,} images are not there ({examples}); looked in {names.tried()}"
        source.checker.note(file, "images", message)
