"""Weights & Biases: a run's curves, summaries, tables and pictures with boxes, online or offline.

Asks no question and needs no network: without credentials, or without a proper answer of the server, it works offline
and says how to upload. Step i of a W&B run is row i of metrics.csv, also after a resume.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anchorlab.console import in_sweep, typed
from anchorlab.plots.scene import Scene
from anchorlab.signatures import Text, checked
from anchorlab.training.loggers.protocol import End, Row, RunFacts, RunLogger
from anchorlab.training.loggers.wandb_service import (
    UPLOAD,
    Mode,
    connect,
    disconnect,
    end_service,
    first_line,
    reachable,
    segments,
    server_fault,
    written_to,
)

PROJECT = "anchorlab"

INIT_SECONDS = 7
"""How long the server may take to begin the run."""

FINISH_SECONDS = 7
"""How long the end of a run waits for uploads."""

SUMMARISED = re.compile(r"val/((?:recall|AR)_\w+)")
STEP, EPOCH = "trainer/global_step", "epoch"
HEADLINE = re.compile(r"(?:recall|AR)_\d+")
PROPOSAL, OBJECT = 1, 2


@checked
class WandbLogger(RunLogger):
    """One W&B run for a run, of the same id; a resumed one gets the rows that it lacks.

    `val/` metrics are drawn over epochs, the others over steps. The summary holds `recall_100`, `AR_1000`, ... of the
    last validation, and `best_recall_100`, ... of the one that best.ckpt holds.

    Args:
        mode: `online`, `offline`, or `auto`: online where there are credentials and the server answers in time, else
            offline; `WANDB_MODE=offline|disabled` goes before.
        project, entity, group, tags: as in `wandb.init`. Where they, and `name`, are not given, WANDB_PROJECT (else
            `anchorlab`), WANDB_ENTITY, WANDB_RUN_GROUP, WANDB_TAGS and WANDB_NAME count, and WANDB_DIR in place of the
            run's folder; the jobs of a sweep keep their own names.
        job_type: null takes `train` or `eval`.
        name: null takes the last two parts of the run's folder.
        media: whether pictures leave the run's folder.
        checkpoint: whether best.ckpt and last.ckpt become artifacts, with the aliases `best` and `last`, when the run
            finishes.
    """

    title = "W&B"

    def __init__(
        self,
        mode: Literal["auto", "online", "offline"] = "auto",
        project: Text | None = None,
        entity: Text | None = None,
        group: Text | None = None,
        job_type: Text | None = None,
        name: Text | None = None,
        tags: Sequence[Text] = (),
        media: bool = True,
        checkpoint: bool = False,
    ) -> None:
        self.mode: Literal["auto", "online", "offline"] = mode
        self.required = "logger.mode=online" if mode == "online" else ""
        self.media = media
        self.checkpoint = checkpoint
        self._name = name or (None if in_sweep() else os.environ.get("WANDB_NAME"))
        self._job_type = job_type
        project = project or os.environ.get("WANDB_PROJECT") or PROJECT
        tags = tags or [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag.strip()]
        self._where = {"project": project, "entity": entity, "group": group, "tags": list(tags)}
        self._run: Any = None
        self._online = False
        self._answers = True  # the server, as far as known
        self._run_folder = ""  # as one types it
        self._segments: list[Path] = []  # what W&B wrote before a resume
        self._notice = ""
        self._sent = 0  # rows that the server has from before a resume
        self._last = 0  # the row that tables and pictures belong to
        self._defined: set[str] = set()  # names that W&B knows the axis of
        self._open = False  # whether W&B holds the last row back for what may be added to it
        self._scenes: list[tuple[str, Scene, int]] = []  # of the row that follows
        self._uploaded: dict[str, tuple[np.ndarray, Any]] = {}  # by key: pixels, and W&B's picture of them
        self._best: dict[str, float] = {}  # metrics of the best validation
        self._monitored = ""
        self._checkpoints = Path()

    def start(self, run: RunFacts) -> None:
        """Begin or continue the W&B run.

        Raises:
            ValueError: where logger.mode=online has no credentials or no proper answer.
        """
        self._monitored, self._checkpoints = run.monitored, run.folder / "checkpoints"
        self._run_folder = typed(run.folder.resolve())
        place = written_to(run.folder)
        self._segments = segments(run.folder, run.id) if run.resumed else []
        connect()
        # W&B writes to a temporary folder where it finds none.
        place.mkdir(parents=True, exist_ok=True)
        mode, why = reachable(self.mode)
        if mode == "online" and (why := self._begin(run, "online")):
            if self.mode == "online":
                raise ValueError(f"logger.mode=online: {why}; use logger.mode=offline")
            mode = "offline"
        if mode != "online":
            self._begin(run, mode)
        self._online = mode == "online"
        self._notice = self._where_it_is(mode, why)

    def resumed(self, rows: Sequence[Row]) -> None:
        # An offline run is written anew: the newest folder alone holds the whole curves.
        self._sent = self._run.starting_step
        if self._online:
            self._send_files_again()
        for index, row in enumerate(rows):
            self.row(index, row)

    def row(self, index: int, row: Row) -> None:
        self._last = index
        metrics = {name: value for name, value in row.items() if name != "step"}
        metrics[STEP] = row["step"]
        if index >= self._sent:
            self._define([*metrics, *(key for key, _, _ in self._scenes)])
            self._run.log(metrics, step=index)
            self._open = True
            if self._scenes:  # behind the metrics: W&B names a picture's file after the step that it has reached
                self._run.log(self._pictures(row), step=index)
        self._scenes = []
        self._summarise(row)

    def row_complete(self) -> None:
        if self._open:  # W&B would show it when the next one comes: an epoch later
            self._run.log({}, step=self._last, commit=True)
            self._open = False

    def picture(self, key: str, scene: Scene, top: int) -> None:
        if self.media:
            self._scenes.append((re.sub(r"[^\w/]", "_", key, flags=re.ASCII), scene, top))  # W&B sorts no other letters

    def image(self, key: str, path: Path) -> None:
        if self.media:
            import wandb

            self._run.log({key: wandb.Image(str(path))}, step=self._last)

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import wandb

        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
        if not self._still_answers():
            table.bind_to_run(self._run, key, self._last)  # a file of the run alone: its artifact would wait
        self._run.log({key: table}, step=self._last)

    def timings(self, timings: Mapping[str, float]) -> None:
        self._run.config.update({"timings": dict(timings)}, allow_val_change=True)

    def notice(self) -> str:
        return self._notice

    def finish(self, end: End) -> str:
        if self._run is not None:
            if end == "finished" and self.checkpoint and self._still_answers():
                self._log_checkpoints()
            if end == "interrupted":
                self._run.mark_preempting()
            try:
                self._run.finish(exit_code=int(end != "finished"))
            except TimeoutError:
                return self.abandoned()
            if not self._still_answers():  # W&B gives up silently on a server that refuses (401, 403, 404)
                return self.abandoned()
        disconnect()  # else the interpreter waits for W&B's service at its exit, and without a limit
        return ""

    def abandoned(self) -> str:
        """Not everything is on the server, but all of it is on the disk.

        `wandb sync` would begin at the first row again, behind those that the server has.
        """
        if self._run is not None and not self._online:
            return ""  # the disk is slow: W&B writes until the process has ended
        end_service()
        if not self._online:
            return ""
        return f"not everything was uploaded; send the curves that are missing with: {UPLOAD} {self._run_folder}"

    def _still_answers(self) -> bool:
        """Whether the server has answered until now. Else W&B would ask it once more for every artifact, and wait."""
        self._answers = self._answers and not (self._online and server_fault())
        return self._answers

    def _send_files_again(self) -> None:
        """Those of the rows that the server has: a kill may have come between a row and its pictures."""
        for segment in self._segments:
            if segment.name.startswith("offline-"):
                continue  # its pictures are in no row that the server has
            for path in segment.glob("files/media/**/*.*"):
                self._run.save(str(path), base_path=str(segment / "files"), policy="now")

    def _pictures(self, row: Row) -> dict[str, Any]:
        pictures: dict[str, Any] = {}
        for key, scene, top in self._scenes:
            layers = {
                "predictions": _layer(scene.proposals[:top], PROPOSAL, "proposal", scene.scores[:top]),
                "ground_truth": _layer(scene.boxes, OBJECT, "object"),
            }
            pictures[key] = self._picture(key, scene.image, f"epoch {row['epoch']:.0f}", layers)
        return pictures

    def _define(self, names: Iterable[str]) -> None:
        """Tell W&B the axis of each metric and whether its summary holds it.

        Name by name: where several patterns match (`*` and `val/*`), W&B takes any of them.
        """
        for name in names:
            if name in self._defined:
                continue
            self._defined.add(name)
            if name in (STEP, EPOCH):
                self._run.define_metric(name)
                continue
            # The summary has them under their plain names; W&B's sweeps look for the monitored one under this name.
            twice = SUMMARISED.fullmatch(name) and name != f"val/{self._monitored}"
            axis = EPOCH if name.startswith("val/") else STEP
            self._run.define_metric(name, step_metric=axis, step_sync=True, summary="none" if twice else None)

    def _picture(self, key: str, pixels: np.ndarray, caption: str, boxes: dict[str, Any]) -> Any:
        """W&B's picture; it refers to the file of the last one where that has the same pixels."""
        import wandb

        last, uploaded = self._uploaded.get(key, (None, None))
        if last is not None and np.array_equal(last, pixels):
            return _same_file(uploaded, caption, boxes)
        picture = wandb.Image(np.ascontiguousarray(pixels), caption=caption, boxes=boxes)
        self._uploaded[key] = pixels, picture
        return picture

    def _summarise(self, row: Row) -> None:
        found = {name: SUMMARISED.fullmatch(name) for name in row}
        metrics = {match[1]: float(row[name]) for name, match in found.items() if match}
        if not metrics:
            return
        if metrics.get(self._monitored, -math.inf) > self._best.get(self._monitored, -math.inf):
            self._best = metrics
        best = {f"best_{name}": value for name, value in self._best.items() if HEADLINE.fullmatch(name)}
        self._run.summary.update(metrics | best)

    def _log_checkpoints(self) -> None:
        import wandb

        for alias in ("best", "last"):
            path = self._checkpoints / f"{alias}.ckpt"
            if path.is_file():
                artifact = wandb.Artifact(f"{alias}-{self._run.id}", type="model")
                artifact.add_file(str(path))
                self._run.log_artifact(artifact, aliases=[alias])

    def _begin(self, run: RunFacts, mode: Mode) -> str:
        """Begin the W&B run; why it could not be begun online, or nothing."""
        import wandb

        settings = wandb.Settings(
            silent=True,
            init_timeout=INIT_SECONDS,
            login_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
        )
        try:
            self._run = wandb.init(
                **self._where,
                job_type=self._job_type or run.job,
                id=run.id,
                name=self._name or "/".join(run.folder.resolve().parts[-2:]),
                dir=written_to(run.folder),
                config={**run.config, **run.axes, **run.identity},
                mode=mode,
                resume="allow" if mode == "online" and run.resumed else None,
                reinit="create_new",
                settings=settings,
            )
        except Exception as error:  # W&B raises errors of several families
            if mode != "online":
                raise
            disconnect()  # else W&B calls the id "in use"
            connect()
            return f"W&B did not begin the run ({first_line(error)})"
        return ""

    def _where_it_is(self, mode: Mode, why: str) -> str:
        if mode == "disabled":
            return f"disabled ({why}): nothing is logged"
        if mode == "online":
            return f"online: {self._run.url}"
        return f"offline ({why.rstrip('.')}); upload later with: {self._upload_command()}"

    def _upload_command(self) -> str:
        """`wandb sync` sends all of a segment, pictures too, but behind the rows that the server has already."""
        segments = self._segments
        if any(not path.name.startswith("offline-") or [*path.glob("*.synced")] for path in segments):
            return f"{UPLOAD} {self._run_folder}"
        return f"wandb sync {typed(Path(self._run.settings.sync_dir).resolve())}"


def _same_file(uploaded: Any, caption: str, boxes: dict[str, Any]) -> Any:
    """A `wandb.Image` of which only the boxes are uploaded; its file is that of `uploaded`, which the run has."""
    import wandb

    class SameFile(wandb.Image):
        def bind_to_run(self, run: Any, *args: Any, **keywords: Any) -> None:
            self._run = run
            for boxes in (self._boxes or {}).values():
                boxes.bind_to_run(run, *args, **keywords)

    picture = SameFile(uploaded, boxes=boxes)
    picture._caption = caption  # W&B takes it over from `uploaded`
    return picture


def _layer(boxes: np.ndarray, class_id: int, label: str, scores: np.ndarray | None = None) -> dict[str, Any]:
    """One layer of `wandb.Image(boxes=...)` from (N, 4) xyxy in pixels."""
    data = []
    for row, (x1, y1, x2, y2) in enumerate(np.asarray(boxes, dtype=np.float64).reshape(-1, 4).tolist()):
        position = {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2}
        box: dict[str, Any] = {
            "position": position,
            "domain": "pixel",
            "class_id": class_id,
            "box_caption": label,
        }
        if scores is not None:
            score = float(scores[row])
            box |= {"scores": {"score": score}, "box_caption": f"{row + 1}: {score:.2f}"}
        data.append(box)
    return {"box_data": data, "class_labels": {class_id: label}}
