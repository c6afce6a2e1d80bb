"""Runs from Python: training as the train command does it, and a run's folder as an object."""

import datetime
import signal
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anchorlab import notebook
from anchorlab.commands import train as command
from anchorlab.errors import SettingError
from anchorlab.interface.metrics import Metrics
from anchorlab.interface.settings import compose
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.runs.files import new_folder
from anchorlab.runs.record import read_run
from anchorlab.trained.load import load_trained
from anchorlab.trained.proposer import Proposer
from anchorlab.training.processes import check_ranks
from anchorlab.training.resume import is_finished, latest_unfinished, resumed_config, run_folder
from anchorlab.training.stopping import Stopped
from anchorlab.training.summary import how_to_go_on


def train(*overrides: str, folder: str | Path | None = None, config_dir: str | Path | None = None) -> "Run":
    """Train one RPN, as `anchorlab train <overrides>` does, in this process.

    A line an epoch is printed, in a notebook too. The process keeps the run's number of threads, and its random numbers
    are seeded. An interrupt (the stop button, Ctrl-C) leaves a checkpoint to go on from with `resume=<folder>`.

    Args:
        overrides: as on the command line, without the shell's quotes.
        folder: where the run is kept; None: outputs/<date>/<time> as on the command line. A run that lies there is
            replaced only with `"overwrite=true"`.
        config_dir: a folder of further choices; None: conf/ in the working folder, where there is one.

    Raises:
        SettingError, DataError: settings or data that a person has to change.
        RunError, FloatingPointError: a run that broke.
        KeyboardInterrupt: an interrupt.
    """
    check_ranks()
    config = compose(*overrides, config_dir=config_dir)
    if config["debug"]["look"]:
        raise SettingError("debug.look trains nothing: give it to the train command")
    if config["resume"] == "auto":
        if folder is not None and is_finished(Path(folder), config):
            return Run(folder)
        places = Path("outputs").glob("*/*") if folder is None else [Path(folder)]
        unfinished = latest_unfinished(places, config)
        config["resume"] = None if unfinished is None else str(unfinished.folder)
    place = _place(run_folder(config["resume"]) if config["resume"] else folder)
    try:
        command.train(resumed_config(config, overrides), place, overrides)
    except Stopped as stopped:
        if stopped.signal != signal.SIGINT:
            raise
        raise KeyboardInterrupt(f"{stopped}: {how_to_go_on(place)}") from stopped
    return Run(place, allow=sorted(_packages(config)))


def load(path: str | Path) -> RegionProposalNetwork:
    """A trained network, ready to propose, on the CPU: from an exported model, a run's folder or a checkpoint.

    Raises:
        SettingError: there is none, or it names classes of others (`trained.load.load_trained`).
    """
    return load_trained(path).network


class Run:
    """A run's folder: what it was trained with and what came out.

    Args:
        folder: of a run of any state.
        allow: packages besides anchorlab whose classes its network may be built of; building one runs its code.

    Attributes:
        status: running, paused, interrupted, finished or failed.
        config: the settings, resolved.
        metrics: those of the last validation; `best` those of the best checkpoint.

    Raises:
        SettingError: a folder that holds no run.
    """

    def __init__(self, folder: str | Path, allow: Sequence[str] = ()) -> None:
        try:
            self._record = read_run(folder)
        except ValueError as error:
            raise SettingError(str(error)) from error
        self.folder = Path(folder)
        self.status = self._record.status
        self.config = self._record.config
        self.metrics = Metrics(self._record.final, f"{self.folder}, {self.status}")
        self.best = Metrics(self._record.best, f"{self.folder}, best checkpoint")
        self._allow = tuple(allow)

    @property
    def curves(self) -> dict[str, np.ndarray]:
        """The columns of metrics.csv: `epoch`, `step`, `train/loss`, `val/AR_100`, ...; NaN where one has no value."""
        return self._record.metrics()

    @property
    def figures(self) -> "dict[str, Figure]":
        """The pictures by name, `recall`, `coverage`, `proposals_epoch_001`, ...; a notebook shows each."""
        return {path.stem: Figure(path) for path in sorted((self.folder / "figures").glob("*.png"))}

    @property
    def network(self) -> RegionProposalNetwork:
        """The network of the last checkpoint, ready to propose, on the CPU."""
        return self._proposer.trained.network

    def propose(self, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Proposals for a photograph (H, W, 3) uint8 RGB: boxes (P, 4) in its pixels and scores (P,), best first."""
        return self._proposer(photo)

    @cached_property
    def _proposer(self) -> Proposer:
        return Proposer(self.folder, allow=self._allow)

    def __repr__(self) -> str:
        reached = f", AR@100 {self.metrics['AR_100']:.3f}" if "AR_100" in self.metrics else ""
        return f"Run({str(self.folder)!r}: {self.status}{reached})"

    def _repr_html_(self) -> str:
        shown = [self.figures[name] for name in ("recall", "coverage") if name in self.figures]
        return self.metrics._repr_html_() + "".join(figure._repr_html_() for figure in shown)


class Figure:
    """A picture of a run; `path` is its file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Figure({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return notebook.picture(self.path.read_bytes(), self.path.stem)


def _place(folder: str | Path | None) -> Path:
    if folder is not None:
        return Path(folder).expanduser()
    now = datetime.datetime.now()
    return new_folder(Path("outputs") / f"{now:%Y-%m-%d}", f"{now:%H-%M-%S}")


def _packages(config: Any) -> set[str]:
    """The packages of the classes that a config names."""
    if isinstance(config, list):
        return set().union(*map(_packages, config))
    if not isinstance(config, Mapping):
        return set()
    named = {str(config["_target_"]).partition(".")[0]} if config.get("_target_") else set()
    return named.union(*map(_packages, config.values()))
