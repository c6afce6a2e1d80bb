"""Where Lightning's figures go: metrics.csv in the run's folder, and Weights & Biases beside it.

Both write on the first process only, ask no question and need no network: without credentials, or without an
answer, Weights & Biases works offline and says how to upload later.
"""

import netrc
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger

INIT_SECONDS = 20
"""How long an online start may wait for the server before the run goes offline."""

SUMMARISED = re.compile(r"val/((?:recall|AR)_\w+)")
PROPOSAL, OBJECT = 1, 2

Mode = Literal["online", "offline", "disabled"]


class WandbLogger(LightningWandbLogger):
    """Lightning's logger, with a mode that settles itself, and summaries to compare runs by.

    What it adds: `val/` figures are drawn over epochs, the others over steps; the summary holds `recall_100`,
    `AR_1000`, ... of the last validation and `best_AR_100`, without a slash; W&B prints nothing; each logger
    is a run of its own, and one still open in this process is finished, never written into.

    Call `finish` at the end of the job, also of one that failed; a fit that fails does so itself.

    Args:
        mode: `online`, `offline`, or `auto`: online where there are credentials and the server answers within
            20 seconds, else offline; `WANDB_MODE=offline|disabled` goes before.
        project, entity, group, job_type, tags: as in `wandb.init`.
        name: null takes the last two parts of the run's folder.
        media: whether pictures leave the run's folder.
        checkpoint: whether the best and last checkpoint become artifacts when a fit succeeds.
        save_dir: the run's folder; W&B writes to `wandb/` in it.
        run_id: continues the W&B run of this id, for a resumed run; null begins a new one.
        best: the best `monitor` so far, for a resumed run.
        monitor: the figure whose best value the summary keeps, as `best_<monitor>`.
    """

    def __init__(
        self,
        mode: Literal["auto", "online", "offline"] = "auto",
        project: str = "anchorlab",
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = "train",
        name: str | None = None,
        tags: Sequence[str] = (),
        media: bool = True,
        checkpoint: bool = False,
        *,
        save_dir: str | Path,
        run_id: str | None = None,
        best: float | None = None,
        monitor: str = "AR_100",
    ) -> None:
        if mode not in ("auto", "online", "offline"):
            raise ValueError(f"logger.mode={mode} is unknown: choose auto, online or offline")
        super().__init__(
            name=name or "/".join(Path(save_dir).resolve().parts[-2:]),
            save_dir=save_dir,
            id=run_id,
            project=project,
            log_model=checkpoint,
            entity=entity,
            group=group,
            job_type=job_type,
            tags=list(tags),
        )
        self.mode = mode
        self.media = media
        self.monitor = monitor
        self._best = best
        self._notice = ""
        self._finished = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `wandb.Run`, begun at the first use; a stand-in that does nothing on other processes.

        Raises:
            ValueError: where logger.mode=online has no credentials or no answer.
        """
        if self._experiment is None:
            self._experiment = self._start()
        return self._experiment

    @property
    def notice(self) -> str:
        """One line for the screen: where the run is online, or how to upload it. Begins the run."""
        _ = self.experiment
        return self._notice

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        found = {key: SUMMARISED.fullmatch(key) for key in metrics}
        figures = {match[1]: float(metrics[key]) for key, match in found.items() if match}
        value = figures.get(self.monitor)
        if value is not None:
            self._best = value if self._best is None else max(self._best, value)
            figures[f"best_{self.monitor}"] = self._best
        if figures:
            self.experiment.summary.update(figures)

    @rank_zero_only
    def log_boxes(
        self,
        key: str,
        image: np.ndarray,
        proposals: np.ndarray,
        scores: np.ndarray,
        boxes: np.ndarray,
        step: int | None = None,
    ) -> None:
        """One picture with proposals and ground truth as layers to switch; nothing where `media` is off.

        Args:
            key: its panel; what W&B cannot sort by becomes an underscore.
            image: (H, W, 3) uint8 RGB.
            proposals: (P, 4) xyxy in pixels of the image, with scores (P,). Give the best few: all are drawn.
            boxes: (G, 4) ground truth.
        """
        if not self.media:
            return
        import wandb

        layers = {
            "predictions": _layer(proposals, PROPOSAL, "proposal", scores),
            "ground_truth": _layer(boxes, OBJECT, "object"),
        }
        picture: Any = wandb.Image(np.ascontiguousarray(image), boxes=layers)
        super().log_metrics({re.sub(r"[^\w/]", "_", key, flags=re.ASCII): picture}, step)

    @rank_zero_only
    def log_recall_table(self, recall: np.ndarray, budgets: Sequence[int], thresholds: Sequence[float]) -> None:
        """The table N x IoU: recall (N, T) from `ProposalRecall.table()`, under the key `recall_table`."""
        columns = ["N", *(f"IoU {threshold:.2f}" for threshold in thresholds)]
        rows = [[int(n), *map(float, row)] for n, row in zip(budgets, recall, strict=True)]
        self.log_table("recall_table", columns, rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Lightning's call at the end of each fit; a failed one finishes the run as failed."""
        super().finalize(status)
        if status != "success":
            self.finish(exit_code=1)

    @rank_zero_only
    def finish(self, exit_code: int = 0) -> None:
        """Close the run, if it was begun; an exit code other than 0 shows it as failed."""
        if self._experiment is not None and not self._finished:
            self._experiment.finish(exit_code=exit_code)
            self._finished = True

    def _start(self) -> Any:
        import wandb
        from wandb.errors import Error as WandbError

        _connect()
        if wandb.run is not None:
            wandb.run.finish()
        # W&B writes to a temporary folder where it finds none.
        Path(self._wandb_init["dir"]).mkdir(parents=True, exist_ok=True)
        mode, reason = self._settled_mode()
        try:
            run = self._init(mode)
        except WandbError as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if self.mode == "online":
                raise ValueError(
                    f"logger.mode=online: W&B did not start the run ({reason}); use logger.mode=offline"
                ) from error
            mode, run = "offline", self._init("offline")
        self._notice = _notice(mode, reason, run)
        run.define_metric("trainer/global_step")
        run.define_metric("epoch")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        run.define_metric("val/*", step_metric="epoch", step_sync=True)
        return run

    def _init(self, mode: Mode) -> Any:
        import wandb

        settings = wandb.Settings(silent=True, init_timeout=INIT_SECONDS, login_timeout=INIT_SECONDS)
        return wandb.init(**self._wandb_init, mode=mode, settings=settings)

    def _settled_mode(self) -> tuple[Mode, str]:
        """The mode to start in, and why it is not online."""
        if self.mode == "offline":
            return "offline", "logger.mode=offline"
        asked = os.environ.get("WANDB_MODE", "")
        if self.mode == "auto" and asked in ("offline", "dryrun", "disabled"):
            return "disabled" if asked == "disabled" else "offline", f"WANDB_MODE={asked}"
        if _has_credentials():
            return "online", ""
        if self.mode == "online":
            raise ValueError("logger.mode=online finds no credentials: run `wandb login` or use logger.mode=offline")
        return "offline", "no credentials found"


def _connect() -> None:
    """Start W&B's service, or use the parent's: its token is inherited, and may be that of one that has ended."""
    import wandb

    quiet = wandb.Settings(silent=True)
    try:
        wandb.setup(quiet)
    except Exception:  # W&B's own error for this is private
        if os.environ.pop("WANDB_SERVICE", None) is None:
            raise
        wandb.setup(quiet)


def _has_credentials() -> bool:
    """Whether W&B would find a key without asking: in the environment, its settings or the netrc file."""
    import wandb

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    settings = wandb.setup().settings
    hosts = (urlsplit(settings.base_url).netloc, "api.wandb.ai")
    try:
        known = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        known = {}
    return bool(settings.api_key) or any(host in known for host in hosts)


def _notice(mode: Mode, reason: str, run: Any) -> str:
    if mode == "disabled":
        return f"disabled ({reason}): nothing is logged"
    if mode == "online":
        return f"online: {run.url}"
    folder, here = Path(run.settings.sync_dir).resolve(), Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return f"offline ({reason.rstrip('.')}); upload later with: wandb sync {shown}"


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
