"""HTML page of a comparison (comparison.html): one file with its tables, charts and pictures that opens offline.

Nothing a run's folder says becomes markup: everything travels as JSON, and the page writes it as text (web/page.js).
The page computes no statistic; it shows what comparison.py found.
"""

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from plotly.offline import get_plotlyjs

from anchorlab.comparing.comparison import Comparison, Entry, Mean, Table, short_key
from anchorlab.comparing.importance import importances
from anchorlab.comparing.labels import as_typed, shown
from anchorlab.comparing.report import answer
from anchorlab.comparing.scores import CURVE
from anchorlab.config.identity import all_settings, settings_that_count
from anchorlab.metrics.from_ranks import AT_50, AT_70, BUDGETS, THRESHOLDS, Metric
from anchorlab.plots.html import as_script, filled
from anchorlab.plots.palette import ROWS, SHADES, as_css
from anchorlab.runs.anchor_report import read_diagnosis
from anchorlab.runs.gallery import GalleryImage, read_gallery
from anchorlab.runs.json import plain
from anchorlab.runs.record import Run
from anchorlab.version import __version__

DETAILED = 60
"""Entries of a table, best first, whose learning curves and pictures the page holds."""
CURVE_POINTS = 80
LEARNING = ("val/AR_100", "val/recall_100", "val/AR_1000", "val/loss", "train/loss", "train/objectness", "train/box")


def as_page(comparison: Comparison, gallery: int = 6, folder: Path | None = None) -> str:
    """The page as HTML.

    Args:
        gallery: at most so many images of each data set are put into the page; 0: none.
        folder: where it will lie; its links to the runs' folders start from there. None: it has none.
    """
    details = _Details(gallery, folder)
    content = {
        "created": datetime.now(UTC).isoformat(timespec="minutes"),
        "version": __version__,
        "answer": answer(comparison),
        "metric": comparison.question.metric,
        "confidence": comparison.question.bootstrap.confidence,
        "resamples": comparison.question.bootstrap.resamples,
        "tables": [_table(comparison, table, details) for table in comparison.tables],
        "unscored": [
            {"name": name, "status": run.status, "reason": why, "folder": str(run.folder)}
            for entry in comparison.unscored
            for name, run, why in zip(entry.names, entry.runs, entry.unscored, strict=True)
        ],
        "notes": [*comparison.notes, *details.problems],
        "images": details.images,
        "colours": {"rows": ROWS, "shades": SHADES},
    }
    parts = {
        "css": as_css() + _file("page.css"),
        "script": _file("page.js"),
        "plotly": get_plotlyjs(),
        "content": as_script(plain(content, digits=5)),
    }
    return filled(_file("page.html"), parts)


def _file(name: str) -> str:
    return (resources.files("anchorlab.comparing") / "web" / name).read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------------------------- tables


def _table(comparison: Comparison, table: Table, details: "_Details") -> dict[str, Any]:
    metric = comparison.question.metric
    entries = table.entries
    metrics = list(dict.fromkeys([metric, *entries[0].metrics]))
    differing = _differing([all_settings(run.config) for entry in entries for run in entry.runs])
    settings = list(dict.fromkeys([*differing, *entries[0].settings]))
    details.begin_table()
    return {
        "data": table.data,
        "images": len(table.images),
        "boxes": table.boxes,
        "notes": table.notes,
        "baseline": table.baseline,
        "chosen": table.chosen,
        "metrics": {key: str(Metric.of(key)) for key in metrics},
        "axes": _varied(entry.runs[0].axes for entry in entries),
        "settings": [key for key in settings if key in entries[0].settings],
        "swept": {key: short_key(key, entries[0].swept) for key in entries[0].swept},
        "importance": _importance(entries, metric),
        "budgets": [n for n in CURVE if n in entries[0].scores[0].budgets],
        "atBudgets": [n for n in BUDGETS if n in entries[0].scores[0].budgets],
        "thresholds": THRESHOLDS.tolist(),
        "rows": [
            _row(entry, metrics, settings, details, at < DETAILED or at == table.baseline)
            for at, entry in enumerate(entries)
        ],
        "detailed": DETAILED if len(entries) > DETAILED else None,
    }


def _row(
    entry: Entry, metrics: Sequence[str], settings: Sequence[str], details: "_Details", detailed: bool
) -> dict[str, Any]:
    first = entry.runs[0]
    counting = settings_that_count(first.config) | entry.settings
    return {
        "label": entry.label,
        "name": entry.name,
        "status": entry.status,
        "reason": first.reason,
        "seeds": entry.seeds,
        "axes": {key: entry.axis(key) for key in first.axes},
        "settings": {
            key: as_typed(key, value, entry.choices)
            for key, value in (all_settings(first.config) | counting).items()
            if key in settings
        },
        "values": {key: value for key, value in counting.items() if key in settings and _is_number(value)},
        "counting": [key for key in settings if key in counting],
        "metrics": {key: _mean(entry.metric(key)) for key in metrics if _scored(entry, key)},
        "curves": _curves(entry),
        "time": entry.timing("fit_s"),
        "rate": entry.timing("train_images_per_s"),
        "difference": _difference(entry),
        "verdict": entry.verdict,
        "runs": [_run(name, run, details.folder) for name, run in zip(entry.names, entry.runs, strict=True)],
        "learning": [_learning(run) for run in entry.runs] if detailed else [],
        "scenes": details.scenes_of(first) if detailed else [],
        "diagnosis": details.diagnosis_of(first) if detailed else None,
    }


def _importance(entries: Sequence[Entry], metric: str) -> dict[str, Any] | None:
    """Of the swept settings, from the runs that have finished, each seed a run."""
    finished = [entry for entry in entries if entry.status == "finished"]
    settings = [entry.settings for entry in finished for _ in entry.scores]
    scores = [score.metric(metric) for entry in finished for score in entry.scores]
    found = importances(settings, scores, entries[0].swept)
    return found and {"settings": [asdict(one) for one in found.settings], "runs": found.runs, "fit": found.fit}


def _scored(entry: Entry, key: str) -> bool:
    return all(int(key.rpartition("_")[2]) in scores.budgets for scores in entry.scores)


def _curves(entry: Entry) -> dict[str, Any]:
    """Means over the seeds: recall against N at three IoU, and against IoU at the usual budgets."""
    budgets = entry.scores[0].budgets
    recall = np.mean([scores.recall[:, :, 0] for scores in entry.scores], axis=0)  # (N, T)
    by_budget = recall[[at for at, n in enumerate(budgets) if n in CURVE]]
    return {
        "recall": by_budget[:, AT_50],
        "recall_iou70": by_budget[:, AT_70],
        "AR": by_budget.mean(axis=1),
        "iou": {str(n): recall[at] for at, n in enumerate(budgets) if n in BUDGETS},
    }


def _difference(entry: Entry) -> dict[str, Any] | None:
    if entry.difference is None:
        return None
    paired = entry.difference.paired
    return {
        "estimate": entry.difference.estimate,
        "low": entry.difference.low,
        "high": entry.difference.high,
        "better": entry.difference.better,
        "p": entry.p_holm,
        "paired": paired and {"low": paired.low, "high": paired.high, "p": paired.p, "seeds": paired.seeds},
    }


def _run(name: str, run: Run, folder: Path | None) -> dict[str, Any]:
    return {
        "link": None if folder is None else _link(run.folder, folder),
        "id": run.id,
        "name": name,
        "folder": str(run.folder),
        "seed": run.seed,
        "created": run.content.get("created"),
        "commit": (run.content.get("commit") or "")[:7] + ("+" if run.content.get("dirty") else ""),
        "epoch": run.final.get("epoch"),
    }


def _link(target: Path, start: Path) -> str:
    """The address of a folder, relative to another: it holds where both are moved together."""
    try:
        return quote(os.path.relpath(target.absolute(), start.absolute()).replace(os.sep, "/")) + "/"
    except ValueError:  # on another drive of Windows
        return target.absolute().as_uri() + "/"


def _learning(run: Run) -> dict[str, Any]:
    """A few hundred points of the curves at most: each the mean of its stretch, up to its last step.

    Epochs count as on the screen: 1 is the end of the first one, and a step lies between by its share of an epoch.
    """
    try:
        metrics = run.metrics()
    except ValueError:
        return {}
    curves = {}
    for key in LEARNING:
        logged = ~np.isnan(metrics.get(key, np.zeros(0)))
        if logged.any():
            stretches = min(CURVE_POINTS, int(logged.sum()))
            x, y = (np.array_split(metrics[name][logged], stretches) for name in ("step", key))
            steps = np.array([part[-1] for part in x]) + 1
            curves[key] = {"step": steps, "epoch": steps / _epoch_steps(metrics), "y": [part.mean() for part in y]}
    return curves


def _epoch_steps(metrics: Mapping[str, np.ndarray]) -> float:
    """Optimizer steps of an epoch: up to the last validation, which ends one, else up to the last row."""
    ends = ~np.isnan(metrics.get("val/loss", metrics.get("val/AR_100", np.full(len(metrics["step"]), np.nan))))
    at = np.flatnonzero(ends)[-1] if ends.any() else -1
    epoch = metrics["epoch"][at] if "epoch" in metrics else np.nan
    steps = metrics["step"][at] + 1
    return steps / (epoch + 1) if epoch >= 0 and steps > 0 else np.nan


def _varied(axes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Axes that are not the same everywhere; k and the number of anchors in any case."""
    axes = list(axes)
    keys = dict.fromkeys(key for of_run in axes for key in of_run)
    always = ("k", "anchors_per_image", "coverage")
    return [key for key in keys if key in always or len({str(of_run.get(key)) for of_run in axes}) > 1]


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for of_run in settings for key in of_run)
    return [key for key in keys if len({shown(of_run.get(key)) for of_run in settings}) > 1]


# ---------------------------------------------------------------------------------------------------- pictures


class _Details:
    """What the page shows of single runs: their diagnoses, and images, each once however many runs show it; and the
    folder that its links start from."""

    def __init__(self, limit: int, folder: Path | None) -> None:
        self.limit = limit
        self.folder = folder
        self.images: dict[str, dict[str, Any]] = {}
        self.problems: list[str] = []
        self._of_table: set[str] = set()

    def begin_table(self) -> None:
        self._of_table = set()

    def scenes_of(self, run: Run) -> list[dict[str, Any]]:
        """What the run found on the images of its table, by the key of the image."""
        if self.limit == 0:
            return []
        try:
            scenes = read_gallery(run.folder)
        except ValueError as error:
            self.problems.append(str(error))
            return []
        return [_scene(scene, key) for scene in scenes if (key := self._key(scene)) is not None]

    def diagnosis_of(self, run: Run) -> dict[str, Any] | None:
        try:
            return read_diagnosis(run.folder)
        except ValueError as error:
            self.problems.append(str(error))
            return None

    def _key(self, scene: GalleryImage) -> str | None:
        key = hashlib.sha256(scene.image_id.encode() + scene.image).hexdigest()[:12]
        if key not in self._of_table and len(self._of_table) >= self.limit:
            return None
        self._of_table.add(key)
        source = "data:image/jpeg;base64," + b64encode(scene.image).decode()
        self.images.setdefault(
            key, {"name": scene.image_id, "height": scene.size[0], "width": scene.size[1], "source": source}
        )
        return key


def _scene(scene: GalleryImage, key: str) -> dict[str, Any]:
    return {
        "image": key,
        "boxes": scene.boxes.round(1),
        "rank": scene.rank,
        "proposals": scene.proposals.round(1),
        "scores": scene.scores,
    }


def _mean(value: Mean) -> list[float]:
    return [value.mean, value.sd]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
