"""Going on with a broken-off run: its own settings, in its own folder, from its last checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anchorlab.runs.identity import config_hash
from anchorlab.runs.record import read_run
from anchorlab.settings import SettingError

LAST = Path("checkpoints", "last.ckpt")


def resumed_config(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The config to run with: `config`, or where it resumes a run, that run's own with the `overrides` on top.

    Only what does not change the experiment may be overridden: devices, workers, logging.

    Raises:
        SettingError: no such run, one that is finished or has no checkpoint, or another experiment.
    """
    if config["resume"] is None:
        return dict(config)
    folder = Path(config["resume"])
    saved = _saved_config(folder)
    continued = {**saved, "resume": str(folder)}
    for override in overrides:
        key = override.partition("=")[0].lstrip("+")
        if key != "resume" and not key.startswith("hydra."):
            continued = _with_value(continued, key.split("."), config)
    if config_hash(continued) != config_hash(saved):
        raise SettingError(
            f"resume={folder} goes on with the settings it was started with, and {' '.join(overrides)} would make "
            f"it another experiment: leave out what changes its result, or start a new run without resume"
        )
    return continued


def checkpoint_to_resume(config: Mapping[str, Any]) -> Path | None:
    return None if config["resume"] is None else Path(config["resume"]) / LAST


def _saved_config(folder: Path) -> dict[str, Any]:
    try:
        run = read_run(folder)
    except ValueError as error:
        raise SettingError(f"resume={folder}: {error}") from error
    if run.status == "finished":
        raise SettingError(f"resume={folder} is finished: start a new run, without resume, to train for longer")
    if not (folder / LAST).is_file():
        raise SettingError(f"resume={folder} broke off before its first checkpoint: start it anew, without resume")
    return run.config


def _with_value(config: dict[str, Any], path: Sequence[str], source: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the value at `path` taken from `source`; a config group is taken whole."""
    name, *rest = path
    value = source[name] if not rest else _with_value(dict(config[name]), rest, source[name])
    return {**config, name: value}
