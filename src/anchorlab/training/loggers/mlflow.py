"""MLflow: a run's settings, curves, pictures and tables in a local store, for `mlflow ui`."""

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from anchorlab.plots.boxes import proposals_figure
from anchorlab.plots.scene import Scene
from anchorlab.signatures import checked
from anchorlab.training.loggers.protocol import End, Row, RunFacts, RunLogger

ENDS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
RUN, ROWS = "anchorlab.run", "anchorlab.rows"  # tags: our id of the run, and how many rows were sent
PARAMS_AT_ONCE, LONGEST_PARAM = 100, 6000  # MLflow's own limits


@checked
class MLflowLogger(RunLogger):
    """One MLflow run for a run, also after a resume, with metrics over optimizer steps. Needs the extra `mlflow`.

    Args:
        uri: of the tracking store, below the working folder or a server's; null: MLFLOW_TRACKING_URI, or MLflow's own
            default.
        experiment: of MLflow, made where there is none.
        media: whether pictures are stored.
    """

    title = "MLflow"

    def __init__(self, uri: str | None = None, experiment: str = "anchorlab", media: bool = True) -> None:
        try:
            self._mlflow: Any = import_module("mlflow")
        except ImportError as error:
            raise ValueError("logger=mlflow needs the package mlflow: pip install 'anchorlab[mlflow]'") from error
        self.media = media
        self._experiment = experiment
        self._uri = uri or self._mlflow.get_tracking_uri()
        self._client: Any = self._mlflow.MlflowClient(self._uri)
        self._run = ""  # MLflow's id
        self._sent = 0  # rows of before a resume
        self._step = 0
        self._scenes: list[tuple[str, Scene, int]] = []

    def start(self, run: RunFacts) -> None:
        experiment = self._client.get_experiment_by_name(self._experiment)
        place = self._client.create_experiment(self._experiment) if experiment is None else experiment.experiment_id
        known = self._client.search_runs([place], f"tags.`{RUN}` = '{run.id}'") if run.resumed else []
        if known:
            self._run = known[0].info.run_id
            self._sent = int(known[0].data.tags.get(ROWS, 0))
            self._client.update_run(self._run, status="RUNNING")
            return
        name = "/".join(run.folder.resolve().parts[-2:])
        self._run = self._client.create_run(place, tags={RUN: run.id}, run_name=name).info.run_id
        self._log_params({**run.config, **run.axes, **run.identity})

    def resumed(self, rows: Sequence[Row]) -> None:
        for index, row in enumerate(rows):
            self.row(index, row)

    def row(self, index: int, row: Row) -> None:
        entities = self._mlflow.entities
        self._step = int(row["step"])
        if index >= self._sent:
            now = time.time_ns() // 1_000_000
            metrics = [entities.Metric(name, value, now, self._step) for name, value in row.items() if name != "step"]
            self._client.log_batch(self._run, metrics, tags=[entities.RunTag(ROWS, str(index + 1))])
            for key, scene, top in self._scenes:
                path = f"{key}/epoch_{row['epoch']:03.0f}.png"
                self._client.log_figure(self._run, proposals_figure([scene], top), path)
        self._scenes = []

    def picture(self, key: str, scene: Scene, top: int) -> None:
        if self.media:
            self._scenes.append((key, scene, top))

    def image(self, key: str, path: Path) -> None:
        if self.media:
            self._client.log_artifact(self._run, str(path), key.rpartition("/")[0])

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        self._client.log_text(self._run, text.getvalue(), f"{key}.csv")

    def timings(self, timings: Mapping[str, float]) -> None:
        for name, value in timings.items():
            self._client.log_metric(self._run, f"timings/{name}", value, step=self._step)

    def notice(self) -> str:
        return f"run {self._run}; mlflow ui --backend-store-uri {self._uri}"

    def finish(self, end: End) -> None:
        if self._run:
            self._client.set_terminated(self._run, ENDS[end])

    def _log_params(self, settings: Mapping[str, Any]) -> None:
        params = [self._mlflow.entities.Param(name, str(value)[:LONGEST_PARAM]) for name, value in _leaves(settings)]
        for begin in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(self._run, params=params[begin : begin + PARAMS_AT_ONCE])


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
