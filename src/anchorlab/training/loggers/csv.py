"""metrics.csv in the run's folder, as a logger of Lightning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from anchorlab.runs.metrics import MetricsCSV


class CSVLogger(Logger):
    """Appends every figure to metrics.csv. Settings are in config.yaml already.

    Args:
        save_dir: the run's folder.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self._save_dir = Path(save_dir)
        self._metrics = MetricsCSV(self._save_dir / "metrics.csv")

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._save_dir)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's record keeps them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._metrics.append(0 if step is None else step, metrics)

    @rank_zero_only
    def cut_back(self, step: int) -> None:
        """On resume: forget what was logged after the checkpoint with `step` optimizer steps behind it."""
        self._metrics.cut_back(step)
