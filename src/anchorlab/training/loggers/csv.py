"""metrics.csv in the run's folder: every row, at once; other loggers and a resumed run rely on it."""

from collections.abc import Sequence

from anchorlab.runs.metrics import MetricsCSV
from anchorlab.training.loggers.protocol import Row, RunFacts, RunLogger


class CSVLogger(RunLogger):
    """Appends every row to metrics.csv. Pictures and tables lie in the run's folder already."""

    title = "metrics.csv"
    in_background = False

    def start(self, run: RunFacts) -> None:
        self._metrics = MetricsCSV(run.folder / "metrics.csv")

    def row(self, index: int, row: Row) -> None:
        metrics = {name: value for name, value in row.items() if name != "step"}
        self._metrics.append(int(row["step"]), metrics)

    def cut_back(self, step: int, scored_step: int | None) -> Sequence[Row]:
        """Forget what a resumed run logs again, and return what stays (see `MetricsCSV.cut_back`)."""
        return self._metrics.cut_back(step, scored_step)
