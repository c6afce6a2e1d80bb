"""Weights & Biases in a sweep: what its jobs will find, and the one command that uploads those that stayed offline."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anchorlab.errors import SettingError
from anchorlab.training.loggers.wandb_service import UPLOAD, disconnect, reachable


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
    segments = {job: [*job.glob("wandb/*run-*")] for job in sweep.iterdir() if (job / "wandb").is_dir()}
    offline = [path for found in segments.values() for path in found if path.name.startswith("offline-")]
    if all([*path.glob("*.synced")] for path in offline):
        return None
    folder = shlex.quote(str(sweep))
    resumed = any(len(found) > 1 for found in segments.values())
    return f"{UPLOAD} {folder}" if resumed else f"wandb sync {folder}/*/wandb/offline-run-*"
