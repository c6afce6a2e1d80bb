"""The protocol of a logger: what a run tells it, all of it optional; how it is called is `Loggers`' business.

A logger is a class with these methods and a YAML file in conf/logger/ or in a folder of your own (docs/loggers.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from anchorlab.plots.scene import Scene

Row = Mapping[str, float]
"""What was logged at one moment: `step` (optimizer steps, from 0), `epoch` (from 1, as on the screen) and metrics by
name, such as `train/loss` and `val/AR_100`. Row i is line i + 2 of metrics.csv, whose first line names the columns, and
which counts epochs from 0."""

End = Literal["finished", "interrupted", "failed"]
"""Interrupted: a signal asked the run to stop, and it can be resumed."""


@dataclass(frozen=True)
class RunFacts:
    """What a logger may want to know of a run before its first step.

    folder: the run's; loggers write below it.
    id: eight letters and digits, the same after a resume.
    config: resolved, plain containers.
    axes: numbers and words that runs are sorted by: k, smallest_size, ...
    monitored: the metric that the best checkpoint is chosen by, such as `AR_100`.
    identity: what tells it from others: the names of its choices (`choices.assigner`), config hash, commit.
    job: a training, or an evaluation by evaluate.py.
    resumed: whether it goes on with a run that these loggers have seen before.
    """

    folder: Path
    id: str
    config: Mapping[str, Any]
    axes: Mapping[str, Any]
    monitored: str
    identity: Mapping[str, Any] = field(default_factory=dict)
    job: Literal["train", "eval"] = "train"
    resumed: bool = False


class RunLogger:
    """Does nothing; a logger overrides what it is for. Constructors only store: nothing is written before `start`.

    Calls come one after another, in the order below, from a thread of the logger's own. What a method raises ends this
    logger, in one sentence, and nothing else; of the later calls, only `finish` still comes.
    """

    title = ""
    """How the console calls it; empty: the class's name."""

    in_background = True
    """False: called at once, by the training itself. For files on the disk that others read."""

    required = ""
    """The setting by which a training does not begin unless `start` returns in time; empty: it begins without it."""

    def start(self, run: RunFacts) -> None:
        """Before the first step. A ValueError of a `required` logger ends the run with its sentence."""

    def resumed(self, rows: Sequence[Row]) -> None:
        """A resumed run goes on behind these rows, which is all that was logged until its checkpoint."""

    def row(self, index: int, row: Row) -> None:
        """One row of metrics.csv, as soon as a checkpoint holds the state behind it, so that no row is taken back.

        A metric that is not defined (AR over small boxes where there are none) is absent.
        """

    def picture(self, key: str, scene: Scene, top: int) -> None:
        """An image with its boxes and its `top` best proposals; belongs to the row that follows."""

    def row_complete(self) -> None:
        """An epoch begins: no image or table will be added to the last row any more."""

    def image(self, key: str, path: Path) -> None:
        """A PNG of the run's folder; belongs to the last row."""

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Belongs to the last row."""

    def timings(self, timings: Mapping[str, float]) -> None:
        """Seconds and rates of a run that came to its end, as in run.json."""

    def notice(self) -> str:
        """One line for the screen: where the run is seen, or what a person has to do for that; empty: none."""
        return ""

    def finish(self, end: End) -> str | None:
        """The last call: write out what is left.

        Returns:
            Where that did not work, one line for the screen: what a person has to do.
        """

    def abandoned(self) -> str:
        """Stop whatever still runs, so that the process can end, and say what a person has to do.

        Called where `finish` was not done in time, from another thread.
        """
        return ""
