"""Log of a run's metrics (metrics.csv): one row each time something was logged, one column per metric.

The file is a log, appended as the run goes; what was not logged is an empty cell. It is rewritten only
when a metric turns up for the first time, and when a resumed run forgets what came after its checkpoint.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anchorlab.errors import DamagedFile
from anchorlab.runs.files import write_whole
from anchorlab.runs.reading import MIB, read_text

LARGEST = 512 * MIB


class MetricsCSV:
    """Appends rows to a metrics.csv, also to one that an earlier process left.

    Args:
        path: the file; it and its folder come into being with the first row.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._columns: list[str] | None = None

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row: the optimizer step, from 0, and what was logged at it (with its `epoch`, where known)."""
        row = {"step": step, "epoch": ""} | dict(metrics)
        columns = self._known_columns()
        new = [name for name in row if name not in columns]
        if new:
            rows = [row.texts for row in _read(self.path)[1]] if self.path.exists() else []
            self._rewrite([*columns, *new], rows)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_lines([row], self._known_columns()))

    def cut_back(self, step: int, scored_step: int | None) -> list[dict[str, float]]:
        """Forget the rows a resumed run will write again, and return those that stay: metrics by name, no blanks.

        Args:
            step: the optimizer steps its checkpoint has behind it; it goes on with the step of this number.
            scored_step: the optimizer steps behind the last validation that the checkpoint knows of; a later one, of
                the same step as the checkpoint perhaps, is repeated. None: the checkpoint knows of none.
        """
        if not self.path.exists():
            return []
        rows = [row for row in _read(self.path)[1] if _stays(row.values, step, scored_step or 0)]
        self._rewrite(self._known_columns(), [row.texts for row in rows])
        return [row.values for row in rows]

    def _known_columns(self) -> list[str]:
        if self._columns is None:
            self._columns = []
            if self.path.exists():  # rewritten, so that no row is appended to a line that a crash cut off
                columns, rows = _read(self.path)
                self._rewrite(columns, [row.texts for row in rows])
        return self._columns

    def _rewrite(self, columns: list[str], rows: Sequence[Mapping[str, object]]) -> None:
        header = {name: name for name in columns}
        write_whole(self.path, _lines([header, *rows], columns).encode())
        self._columns = columns


def read_metrics(path: str | Path) -> dict[str, np.ndarray]:
    """The curves by column: (rows,) float64 each, NaN where nothing was logged.

    A last line that a crash cut off is left out.

    Raises:
        DamagedFile: for a file that is no table of numbers with a column `step`.
    """
    columns, rows = _read(Path(path))
    return {name: np.array([row.values.get(name, np.nan) for row in rows], dtype=np.float64) for name in columns}


class _Row(NamedTuple):
    """A line: every cell as it stands, and what was logged, as numbers."""

    texts: dict[str, str]
    values: dict[str, float]


def _stays(row: Mapping[str, float], step: int, scored_step: int) -> bool:
    """A validation's row has the number of the step before it."""
    validation = any(name.startswith("val/") for name in row)
    return row["step"] < (min(step, scored_step) if validation else step)


def _read(path: Path) -> tuple[list[str], list[_Row]]:
    """The columns and the rows of whole lines; each cell is converted once, which is also what checks it."""
    text = read_text(path, LARGEST)
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(whole, newline=""), restval="")
    try:
        columns = list(reader.fieldnames or [])
        texts = [{name: row[name] for name in columns} for row in reader]
        if "step" not in columns:
            raise ValueError("it has no column `step`")
        rows = [_Row(row, _numbers(row)) for row in texts]
    except (ValueError, csv.Error) as error:
        raise DamagedFile(f"{path} cannot be read: {error}") from error
    return columns, rows


def _numbers(texts: Mapping[str, str]) -> dict[str, float]:
    return {name: float(text) for name, text in texts.items() if text} | {"step": float(int(texts["step"]))}


def _lines(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()
