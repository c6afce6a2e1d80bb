"""Comparison of runs from Python: the tables of the compare command as objects."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anchorlab.commands.compare import write
from anchorlab.comparing.comparison import Question
from anchorlab.comparing.comparison import compare as compare_runs
from anchorlab.comparing.labels import choices_of
from anchorlab.comparing.report import answer, as_html, rows_of
from anchorlab.comparing.scores import read_runs
from anchorlab.errors import SettingError
from anchorlab.installation import CONFIGS
from anchorlab.interface.runs import Run


class Comparison:
    """Runs side by side, the best first.

    Attributes:
        answer: the outcome in one sentence.
        table: a dict for each row, as comparison.csv has it: `pandas.DataFrame(comparison.table)`.
    """

    def __init__(self, compared: Any) -> None:
        self._compared = compared
        self.answer = answer(compared)
        self.table = rows_of(compared)

    def save(self, folder: str | Path, gallery: int = 6) -> list[Path]:
        """Write comparison.csv, comparison.md and comparison.html; their paths.

        Args:
            gallery: images shown with two runs' proposals side by side; 0: none.
        """
        return write(self._compared, Path(folder), gallery)

    def __repr__(self) -> str:
        return f"Comparison({self.answer})"

    def _repr_html_(self) -> str:
        return as_html(self._compared)


def compare(
    runs: Sequence[Run | str | Path] | str | Path,
    metric: str = "AR_100",
    baseline: Run | str | Path | None = None,
    images: str = "same",
) -> Comparison:
    """Rank runs, and say of each whether it is better than the baseline, worse, or cannot be told from it.

    Args:
        runs: runs, their folders, folders of them, or globs.
        metric: ranks and is tested: `AR_100`, `recall_300`, ... at any number of proposals.
        baseline: a run, or as for the compare command (`"anchor.k=3"`); None: the best.
        images: "same" puts runs that were scored on other images into tables of their own; "common" scores all on the
            images that they share.

    Raises:
        SettingError: no such run or metric.
    """
    if images not in ("same", "common"):
        raise SettingError(f"images={images} is not possible: it must be one of same, common")
    places = [runs] if isinstance(runs, str | Path) else runs
    found, problems = read_runs([_folder(place) for place in places])
    question = Question(metric, None if baseline is None else _folder(baseline), images, choices=choices_of(CONFIGS))
    return Comparison(compare_runs(found, question, problems))


def _folder(run: Run | str | Path) -> str:
    return str(run.folder if isinstance(run, Run) else run)
