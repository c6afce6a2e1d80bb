"""Weights & Biases in a sweep: what its jobs will find, and the one command that uploads those that stayed offline."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from anchorlab.errors import DamagedFile, SettingError
from anchorlab.runs.record import read_content
from anchorlab.training.loggers.wandb_service import UPLOAD, disconnect, reachable, segments, written_to


def state(logger: Mapping[str, Any]) -> str | None:
    """A line on how the jobs will log, from the config group `logger`; None where they do not log to W&B.

    Raises:
        SettingError: logger.mode=online, without credentials or a server that answers.
    """
    if not str(logger.get("_target_")).endswith(".WandbLogger"):
        return None
    import wandb

    try:
        mode, why = reachable(logger["mode"])
        address = wandb.setup().settings.base_url
    except ValueError as error:
        raise SettingError(str(error)) from error
    finally:
        disconnect()  # the jobs would inherit this process's service
    return f"W&B: {mode} ({why or address})"


def command(sweep: Path) -> str | None:
    """What uploads the jobs that stayed offline; None where there are none."""
    written = {run_id: segments(job, run_id) for job, run_id in _jobs(sweep)}
    offline = {i for i, found in written.items() for path in found if _waits(path)}
    if not offline:
        return None
    folder = shlex.quote(str(sweep))
    if any(len(found) > 1 for found in written.values()):
        return f"{UPLOAD} {folder}"
    place = written_to(sweep)
    if place == sweep:
        return f"wandb sync {folder}/*/wandb/offline-run-*"
    pattern = f"{{{','.join(sorted(offline))}}}" if len(offline) > 1 else min(offline)
    return f"wandb sync {shlex.quote(str(place))}/wandb/offline-run-*-{pattern}"  # others' runs lie there, too


def _jobs(sweep: Path) -> Iterator[tuple[Path, str]]:
    """The folder and the id of each job that began."""
    for folder in sweep.iterdir():
        with suppress(DamagedFile):
            if run_id := read_content(folder).get("id"):
                yield folder, run_id


def _waits(segment: Path) -> bool:
    return segment.name.startswith("offline-") and not [*segment.glob("*.synced")]
