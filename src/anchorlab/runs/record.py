"""Record of a run: the folder with its settings, progress and results. Comparing runs needs nothing else.

    config.yaml     the settings, resolved
    run.json        identity, status, code, machine, axes, timings, figures
    metrics.csv     the curves (metrics.py)
    recall.npz      the rank that found each box (metrics/recall.py)
    proposals.npz   a few validation images with their boxes and best proposals (gallery.py)
    anchors.json    where recall was lost, and what each anchor shape was good for (anchor_report.py reads it)
    problems.txt    what the data checks left out, where they left anything out
    .run.lock       held by the process that trains it

Checkpoints and figures lie in the same folder and are not this file's job. Under several processes only one
writes: whoever holds the `RunRecord`.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from anchorlab.config.identity import anchor_hash, config_hash
from anchorlab.config.moved import with_current_names
from anchorlab.errors import DamagedFile, SettingError
from anchorlab.installation import groups
from anchorlab.printable import printable
from anchorlab.runs import environment, reading
from anchorlab.runs.files import FolderLock, remove_leftovers, write_whole
from anchorlab.runs.json import plain
from anchorlab.runs.metrics import read_metrics
from anchorlab.runs.reading import Status

FILES = ("config.yaml", "run.json", "metrics.csv", "recall.npz", "proposals.npz", "anchors.json", "problems.txt")
FOLDERS = ("checkpoints", "figures")
"""With `FILES`, what a run writes in its folder, and writes over in one that has it already."""

SCHEMA_VERSION = 1
"""Of run.json. Raise it when a key changes its meaning; keys may be added without."""


class RunRecord:
    """Writes a run's folder, piece by piece; every file is whole at any moment.

    `claim` the folder, `start` once, `add` after each validation, then `finish`, `pause`, `interrupt` or `fail`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.content: dict[str, Any] = {}
        self._lock = FolderLock(self.folder)

    @property
    def id(self) -> str:
        """Eight letters and digits, unique enough to name the run in W&B."""
        return self.content["id"]

    def claim(self) -> None:
        """Lock the folder for this process until it ends.

        Raises:
            ValueError: another process holds it.
        """
        if not self._lock.acquire():
            raise ValueError(f"{self.folder} is being trained by another process: wait for its end, or stop it")
        remove_leftovers(self.folder)

    def clear(self) -> None:
        """Delete what an earlier run left in the folder: a new one begins in it.

        run.json goes last: without it, what a kill has left would be files of something else.
        """
        for name in FOLDERS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in sorted(FILES, key="run.json".__eq__):
            (self.folder / name).unlink(missing_ok=True)

    def would_lose(self) -> str | None:
        """What a new run in this folder would delete or write over, as a sentence names it; None: nothing of value.

        A run that broke off before its first checkpoint is nothing: nobody could go on with it.
        """
        there = [name for name in (*FILES, *FOLDERS) if os.path.lexists(self.folder / name)]
        if not there:
            return None
        names = f"({', '.join(there)})"
        try:
            status = read_content(self.folder).get("status")
        except ValueError:
            return f"files of something else {names}"
        if status == "finished":
            return f"a finished run {names}"
        return f"an unfinished run {names}" if list(self.folder.glob("checkpoints/*.ckpt")) else None

    def refuse_to_lose(self, resumes: bool = False) -> None:
        """Raise SettingError where a new run would lose what lies in the folder; `resumes`: it could go on there."""
        lost = self.would_lose()
        if lost is not None:
            go_on = f"resume={self.folder} to go on, " if resumes and lost.startswith("an unfinished run") else ""
            raise SettingError(
                f"{self.folder} holds {lost}: give another folder, {go_on}or overwrite=true to delete what lies there"
            )

    def start(
        self,
        config: Mapping[str, Any],
        seed: int | None = None,
        shapes: Iterable[Any] | None = None,
        devices: Iterable[str] = (),
        overrides: Iterable[str] = (),
        command: str | None = None,
    ) -> None:
        """Write a run.json of status `running`, and then config.yaml: alone, that would be a file of something else.

        Where the folder has a run.json (a resumed run), its id and time of creation stay, and `resumed` counts up.

        Args:
            config: the resolved config as plain containers, with fitted shapes and the like filled in.
            shapes: the anchors' width x height, (k, 2) per level, for the anchor hash.
            devices: names of the accelerators in use.
            overrides: what was typed behind the command that started it.
            command: the hash of the config before anything was decided or filled in: the same for the same command.
        """
        before = read_content(self.folder) if os.path.lexists(self.folder / "run.json") else {}
        commit, dirty = environment.commit()
        self.content = {
            "schema_version": SCHEMA_VERSION,
            "id": before.get("id") or _new_id(),
            "status": "running",
            "reason": None,
            "warnings": before.get("warnings") or {},
            "created": before.get("created") or _now(),
            "updated": _now(),
            "resumed": 0 if before.get("resumed") is None else before["resumed"] + 1,
            "overrides": before.get("overrides") or list(overrides),
            "choices": before.get("choices") or {},
            "config_hash": config_hash(dict(config)),
            "command_hash": before.get("command_hash") or command,
            "anchor_hash": None if shapes is None else anchor_hash(list(shapes)),
            "seed": seed,
            "commit": commit,
            "dirty": dirty,
            "versions": environment.versions(),
            "machine": environment.machine() | {"devices": list(devices)},
            "axes": before.get("axes") or {},
            "timings": before.get("timings") or {},
            "figures": {name: (before.get("figures") or {}).get(name) or {} for name in ("final", "best")},
        }
        self._write()
        self.write_config(config)

    def add(
        self,
        axes: Mapping[str, Any] | None = None,
        timings: Mapping[str, Any] | None = None,
        final: Mapping[str, float] | None = None,
        best: Mapping[str, float] | None = None,
    ) -> None:
        """Update run.json; a key given before is replaced, the others stay.

        Args:
            axes: single numbers and words a run can be sorted by: k, smallest_size, ratio_span, coverage...
            timings: seconds and rates.
            final: metrics of the last validation, by key as in `recall.py`.
            best: metrics of the validation that the best checkpoint holds.
        """
        figures = self.content["figures"]
        for place, news in (
            (self.content["axes"], axes),
            (self.content["timings"], timings),
            (figures["final"], final),
            (figures["best"], best),
        ):
            place.update(news or {})
        self._write()

    def warn(self, warnings: Mapping[str, str]) -> None:
        """Sentences, by kind, on what is wrong with the run as it stands; they replace those of before."""
        self.content["warnings"] = dict(warnings)
        self._write()

    def finish(self, reason: str | None = None) -> None:
        """The run has finished; `reason`: one sentence why before its last epoch, if so."""
        self.content |= {"status": "finished", "reason": reason}
        self._write()

    def pause(self, reason: str) -> None:
        """The run stopped before its end, as `callbacks.stop_after` asked; `reason`: one sentence where."""
        self.content |= {"status": "paused", "reason": reason}
        self._write()

    def interrupt(self, reason: str) -> None:
        """A signal stopped the run; one sentence which."""
        self.content |= {"status": "interrupted", "reason": reason}
        self._write()

    def fail(self, reason: str) -> None:
        """The run broke off; one sentence why."""
        self.content |= {"status": "failed", "reason": reason}
        self._write()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """config.yaml, from plain containers."""
        write_whole(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))).encode())

    def write_recall(self, arrays: Mapping[str, np.ndarray], image_ids: Iterable[int | str] = ()) -> None:
        """recall.npz, from `ProposalRecall.ranks()` and the ids of the images in the order of its `index`."""
        ids = np.array([str(image_id) for image_id in image_ids], dtype=np.str_)
        packed = BytesIO()
        np.savez_compressed(packed, allow_pickle=False, **arrays, image_ids=ids)
        write_whole(self.folder / "recall.npz", packed.getvalue())

    def write_problems(self, problems: Iterable[object]) -> None:
        """problems.txt, one line each; no file where there are none."""
        lines = [str(problem) for problem in problems]
        if lines:
            write_whole(self.folder / "problems.txt", "".join(f"{line}\n" for line in lines).encode())

    def _write(self) -> None:
        self.content["updated"] = _now()
        text = json.dumps(plain(self.content), indent=2, allow_nan=False)
        write_whole(self.folder / "run.json", f"{text}\n".encode())


@dataclass(frozen=True)
class Run:
    """A run's folder, read. What an older or broken-off run never wrote is empty or None."""

    folder: Path
    id: str
    status: Status
    reason: str | None
    warnings: dict[str, str]
    seed: int | None
    config_hash: str | None
    anchor_hash: str | None
    axes: dict[str, Any]
    timings: dict[str, Any]
    final: dict[str, float]
    best: dict[str, float]
    config: dict[str, Any]
    content: dict[str, Any]
    """run.json as it is."""

    def metrics(self) -> dict[str, np.ndarray]:
        """The curves by column (see `read_metrics`); empty before the first row."""
        path = self.folder / "metrics.csv"
        return read_metrics(path) if os.path.lexists(path) else {}

    def recall(self) -> dict[str, np.ndarray] | None:
        """The arrays of recall.npz; None before the first validation.

        Raises:
            ValueError: for a file that is no such archive.
        """
        path = self.folder / "recall.npz"
        try:
            arrays = reading.read_arrays(path)
            _check_recall(path, arrays)
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            raise DamagedFile(f"{error}: score the network again, evaluate.py run={self.folder}") from error
        return arrays


def read_run(folder: str | Path) -> Run:
    """A run of any status from its folder.

    Raises:
        ValueError: where there is no readable run.json or config.yaml, or a newer AnchorLab wrote it.
    """
    folder = Path(folder)
    content = read_content(folder)
    figures = content.get("figures") or {}
    return Run(
        folder=folder,
        id=content.get("id") or printable(folder.name),
        status=content.get("status", "running"),
        reason=content.get("reason"),
        warnings=content.get("warnings") or {},
        seed=content.get("seed"),
        config_hash=content.get("config_hash"),
        anchor_hash=content.get("anchor_hash"),
        axes=content.get("axes") or {},
        timings=content.get("timings") or {},
        final=figures.get("final") or {},
        best=figures.get("best") or {},
        config=_read_config(folder / "config.yaml"),
        content=content,
    )


def _check_recall(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raise DamagedFile unless the arrays fit each other, as `ProposalRecall.ranks` and `write_recall` leave them."""
    images = len(reading.check_array(path, arrays, "index", "iu", (None,)))
    num_boxes = reading.check_array(path, arrays, "num_boxes", "iu", (images,))
    thresholds = reading.check_array(path, arrays, "thresholds", "f", (None,))
    areas = reading.check_array(path, arrays, "areas", "U", (None,))
    boxes = len(reading.check_array(path, arrays, "rank", "iu", (None, len(thresholds), len(areas))))
    reading.check_array(path, arrays, "counted", "b", (boxes, len(areas)))
    budgets = reading.check_array(path, arrays, "budgets", "iu", (None,))
    reading.check_array(path, arrays, "image_ids", "U", (None,))
    if (num_boxes < 0).any() or num_boxes.sum() != boxes or not len(budgets) or budgets.min() < 1:
        raise DamagedFile(f"{path} holds counts that do not fit: {boxes} boxes in num_boxes of {num_boxes.sum()}")


def read_content(folder: Path) -> dict[str, Any]:
    """run.json of a run's folder, checked; what an older run never wrote is missing.

    Raises:
        DamagedFile: there is none that a run wrote, or a newer AnchorLab wrote it.
    """
    path = folder / "run.json"
    try:
        content = reading.read_json(path)
    except FileNotFoundError as error:
        raise DamagedFile(f"{folder} is not a run's folder: it holds no {path.name}") from error
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} cannot be read: it holds a {type(content).__name__} instead of named values")
    version = content.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise DamagedFile(
            f"{path} has schema version {version}, this AnchorLab reads up to {SCHEMA_VERSION}: update it"
        )
    reading.check_run_json(path, content)
    return content


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = reading.read_yaml(path)
    except FileNotFoundError:
        return {}
    if not isinstance(config, dict):
        raise DamagedFile(f"{path} cannot be read: it holds no named settings")
    config = with_current_names({str(key): value for key, value in config.items()})
    reading.check_groups(path, config, groups())
    return config


def _new_id() -> str:
    if os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"):
        return os.environ["WANDB_RUN_ID"]  # an agent of a W&B sweep stops runs early by the id it gave them
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(8))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
