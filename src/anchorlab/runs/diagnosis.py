"""diagnosis.json: small tables that explain a run's figures (where boxes are lost, which anchors found them), to be
shown beside another run's. What stands in them is decided by who writes them; nothing here is computed.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from anchorlab.runs.files import write_whole

NAME = "diagnosis.json"

Cell = str | int | float | None


@dataclass(frozen=True)
class Diagnosis:
    """One table; the first cell of a row names it. Titles and heads are the same in runs that are to be compared."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def write_diagnosis(folder: str | Path, table: Diagnosis) -> None:
    """Put a table into a run's folder, in place of one of the same title."""
    others = [other for other in read_diagnoses(folder) if other.title != table.title]
    text = json.dumps([asdict(one) for one in [*others, table]], indent=2, allow_nan=False)
    write_whole(Path(folder) / NAME, f"{text}\n".encode())


def read_diagnoses(folder: str | Path) -> list[Diagnosis]:
    """The tables of a run, in the order they were written; none where there is no file.

    Raises:
        ValueError: for a file that holds anything else.
    """
    path = Path(folder) / NAME
    if not path.exists():
        return []
    try:
        tables = [Diagnosis(**table) for table in json.loads(path.read_text(encoding="utf-8"))]
        if any(len(row) != len(table.heads) for table in tables for row in table.rows):
            raise ValueError("a row has not as many cells as there are heads")
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): delete it, the page does without") from error
    return tables
