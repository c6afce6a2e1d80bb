"""Formats with a text file for each image: which file belongs to which image, rows read with their faults noted.

What a row means is the format's part (yolo.py, kitti.py, visdrone.py, dota.py).
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from anchorlab.data.checks import Entry, RawBox
from anchorlab.data.layout import Part, Source
from anchorlab.data.text import read_lines
from anchorlab.data.tree import stem_of

KIND_OF_FOLDER = re.compile(
    r"(jpeg|raw)?(images?|imgs?|pictures?|photos?)(_\d)?|(ann?otations?|ann?ots?|labels?|lab|txts?|xmls?|bbox(es)?|gt)(txt|_\d|_.*)?",
    re.IGNORECASE,
)
"""Folders that say what kind of files they hold, and nothing of which: `images/a/1.jpg` goes with `labels/a/1.txt`."""

Row = Sequence[str]
ParseRow = Callable[[Row, str], RawBox | None]
"""The fields of a row and the name that problems give it -> its box; None: not a box. `ValueError`: a fault."""


def partners_of(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """For each name the one of `others` of the same stem, in a folder that differs by the kind of its files alone.

    Where no name has one there, those of the same stem anywhere are taken, if stems do not repeat.
    """
    places: dict[tuple[str, ...], list[str]] = defaultdict(list)
    stems: dict[str, list[str]] = defaultdict(list)
    for other in others:
        places[_place(other)].append(other)
        stems[stem_of(other)].append(other)
    names = list(names)
    found = {name: _closest(name, places[place]) for name in names if (place := _place(name)) in places}
    if found:
        return found
    own = Counter(map(stem_of, names))
    return {name: stems[stem][0] for name in names if len(stems.get(stem := stem_of(name), ())) == own[stem] == 1}


def _place(name: str) -> tuple[str, ...]:
    *folders, _ = name.split("/")
    return (*(folder for folder in folders if not KIND_OF_FOLDER.fullmatch(folder)), stem_of(name))


def _closest(name: str, candidates: Sequence[str]) -> str:
    folders = set(PurePosixPath(name).parts[:-1])
    return max(candidates, key=lambda other: len(folders & set(PurePosixPath(other).parts[:-1])))


def ids_of(files: Sequence[Path]) -> dict[Path, str]:
    """An id for each file: its stem; where stems repeat, the way to it from the folder that all lie in."""
    stems = Counter(file.stem for file in files)
    if len(stems) == len(files):
        return {file: file.stem for file in files}
    above = Path(os.path.commonpath([file.parent for file in files]))
    ways = {file: file.relative_to(above) for file in files}
    plain = Counter(way.with_suffix("").as_posix() for way in ways.values())
    return {
        file: (way if plain[way.with_suffix("").as_posix()] > 1 else way.with_suffix("")).as_posix()
        for file, way in ways.items()
    }


def label_entries(
    part: Part, source: Source, parse: ParseRow, fields: Callable[[str], Row] = str.split
) -> Iterator[Entry]:
    """Images in the order of the part, boxes in that of their file; an image without a file, or an empty one, has none.

    A row that comes twice counts once.
    """
    ids = ids_of([image for image, _ in part.pairs if image is not None])
    for image, file in part.pairs:
        if image is not None:
            boxes = [] if file is None else list(_boxes(file, f"image {ids[image]}", source, parse, fields))
            yield Entry(file or image, ids[image], image, None, boxes)


def _boxes(file: Path, where: str, source: Source, parse: ParseRow, fields: Callable[[str], Row]) -> Iterator[RawBox]:
    seen: set[tuple[str, ...]] = set()
    for number, line in enumerate(read_lines(file), start=1):
        if not line:
            continue
        row = tuple(fields(line))
        if row in seen:
            source.checker.note(
                file, f"{where}, line {number}", "the same line again, counted once", line, harmless=True
            )
            continue
        seen.add(row)
        try:
            box = parse(row, f"line {number}")
        except ValueError as error:
            source.checker.note(file, f"{where}, line {number}", str(error), line)
        else:
            if box is not None:
                yield box


def commas_or_blanks(line: str) -> list[str]:
    """The fields of a row. Between blanks a comma is a decimal one, without blanks it separates."""
    fields = line.split()
    if len(fields) > 1:
        return [field.strip(",;").replace(",", ".") for field in fields]
    return re.split("[,;]", line.strip().strip(",;"))


def numbers(fields: Iterable[str]) -> list[float]:
    """Fields as numbers; `ValueError` names the one that is none."""
    values = []
    for field in fields:
        try:
            values.append(float(field))
        except ValueError:
            raise ValueError(f"{field!r} is no number") from None
    return values


def looks_like(path: Path, matches: Callable[[Row], bool]) -> bool | None:
    """Whether most of the first rows of a label file are of a format; None where it is empty or cannot be read."""
    try:
        rows = [line for line in read_lines(path)[:20] if line]
    except OSError:
        return None
    return 2 * sum(matches(row.split()) for row in rows) >= len(rows) if rows else None


def sample(names: Sequence[str], count: int = 20) -> Sequence[str]:
    return names[:: max(1, len(names) // count)]
