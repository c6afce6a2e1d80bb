"""Resuming of an interrupted run: with its own settings, in its own folder, from its last checkpoint.

Finding the run imports no torch: a command line is settled before anything heavy starts.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchorlab.config import declared
from anchorlab.config.identity import FOLDER_KEYS, all_settings, changes_result, config_hash, settings_that_count
from anchorlab.config.settings import check, check_signatures, leaf_keys
from anchorlab.errors import DamagedFile, SettingError
from anchorlab.runs.files import FolderLock
from anchorlab.runs.reading import check_checkpoint
from anchorlab.runs.record import Run, read_run
from anchorlab.signatures import shown
from anchorlab.training.processes import process_rank

LAST = Path("checkpoints", "last.ckpt")
CONTINUED = "continued_from"
"""In the config of a run that was trained on for longer: the numbers of epochs that it had before."""


def latest_unfinished(folders: Iterable[Path], config: Mapping[str, Any]) -> Run | None:
    """The newest run that this command started, that nobody trains now and that has a checkpoint, or None.

    Args:
        folders: where to look; what is no run's folder is passed over.
        config: as composed from the command line, nothing decided yet; with its seed it says which runs are meant.
    """
    found = [run for run in _of_command(folders, config) if run.status != "finished" and (run.folder / LAST).is_file()]
    found.sort(key=lambda run: (run.content.get("created") or "", str(run.folder)), reverse=True)
    free = (run for run in found if not FolderLock(run.folder).held_elsewhere())
    return next(free, None)


def is_finished(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether `folder` holds the finished run of this command."""
    return any(run.status == "finished" for run in _of_command([folder], config))


def finished_by_this_job(folders: Iterable[Path], config: Mapping[str, Any]) -> Path | None:
    """The run of this command that this very Slurm job finished before it was queued again, or None."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or not int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        return None  # the shell of an interactive job: a person may start the same command twice
    return next(
        (
            run.folder
            for run in _of_command(folders, config)
            if run.status == "finished" and (run.content.get("machine") or {}).get("slurm_job") == job
        ),
        None,
    )


def resumed_config(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The config to run with: `config`, or where it resumes a run, that run's own with the `overrides` on top.

    Only what does not change the experiment may be overridden: devices, workers, logging; and `trainer.epochs`, to
    train on for longer. Where the run's whole
    command was typed again, these come from it altogether: a scheduler may have given it other devices.

    Raises:
        SettingError: no such run, one that has no checkpoint or no epoch left, or another experiment.
    """
    if config["resume"] is None:
        return dict(config)
    folder = run_folder(config["resume"])
    run = _resumable(folder)
    started_with = set(run.content.get("overrides") or [])
    continued = _with_circumstances(run.config, config) if started_with <= set(overrides) else run.config
    continued = {**continued, "resume": str(folder)}
    try:
        check(continued)
        check_signatures(continued)
    except SettingError as error:
        raise SettingError(f"{folder / 'config.yaml'} cannot be resumed: {error}") from error
    for override in overrides:
        key = override.partition("=")[0].lstrip("+")
        if key != "resume" and not key.startswith("hydra.") and override not in started_with:
            continued = _with_value(continued, key.split("."), config)
    before, after = _epochs(run.config), _epochs(continued)
    more = before is not None and after is not None and after > before
    if run.status == "finished" and not more:
        raise SettingError(
            f"resume={folder} is finished: trainer.epochs=<more than {before}> beside it trains on, "
            f"or start a new run, without resume"
        )
    differing = _differing(run.config, continued)
    if more:
        differing.remove("trainer.epochs")
    if differing:
        raise SettingError(_another_experiment(folder, differing[0], run.config, continued))
    # Two lengths of schedule make another experiment than one: it counts in the config hash.
    return {**continued, CONTINUED: [*run.config.get(CONTINUED, []), before]} if more else continued


def lasting(overrides: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """What starts a new run of the settings that a run has now: the overrides that it was started with, and the number
    of epochs where it was trained on for longer."""
    if not config.get(CONTINUED):
        return list(overrides)
    kept = [override for override in overrides if override.partition("=")[0] != "trainer.epochs"]
    return [*kept, f"trainer.epochs={_epochs(config)}"]


def _epochs(config: Mapping[str, Any]) -> Any:
    return (config.get("trainer") or {}).get("epochs")


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The keys in which two configs are different experiments."""
    if config_hash(one) == config_hash(other):
        return []
    before, after = settings_that_count(one), settings_that_count(other)
    return [key for key in dict.fromkeys((*before, *after)) if before.get(key) != after.get(key)]


def _another_experiment(folder: Path, key: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    was, now = (shown(all_settings(config).get(key)) for config in (before, after))
    sentence = (
        f"resume={folder} goes on with the settings it was started with, and {key}={now} would make it another "
        f"experiment (it has {key}={was}): "
    )
    if key in FOLDER_KEYS:
        return f"{sentence}a folder of another name counts as other data; if it was renamed, link it, ln -s {now} {was}"
    return f"{sentence}leave it out, or start a new run without resume"


@dataclass(frozen=True)
class Position:
    """How far a checkpoint has come."""

    step: int  # optimizer steps
    epoch: int  # the one that is under way or comes next, from 1

    def __str__(self) -> str:
        return f"step {self.step:,} (epoch {self.epoch})"


def position(folder: Path) -> Position | None:
    """Of a run's last checkpoint; None before the first.

    Raises:
        SettingError: for a file that is no checkpoint.
    """
    import torch

    path = folder / LAST
    if not path.is_file():
        return None
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        check_checkpoint(path, checkpoint, resumed=True)
        epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        return Position(checkpoint["global_step"], epoch + 1)
    except DamagedFile as error:
        raise SettingError(f"{error}: start the run anew, without resume") from error
    except Exception as error:  # torch raises whatever zip, pickle or struct raise
        raise SettingError(f"{path} cannot be read ({reason(error)}): start the run anew, without resume") from error


def run_folder(resume: str) -> Path:
    """The run's folder that `resume` means: itself, or where it is the run's last checkpoint, the folder of that run.

    Raises:
        SettingError: another checkpoint.
    """
    place = Path(resume)
    if place.suffix != LAST.suffix:
        return place
    folder = place.parent.parent
    if place != folder / LAST:
        raise SettingError(
            f"resume={place} is not the checkpoint that a run goes on from: resume=<folder of the run> goes on from "
            f"last.ckpt there, start={place} begins a new run with these weights"
        )
    return folder


def checkpoint_to_resume(config: Mapping[str, Any]) -> Path | None:
    return None if config["resume"] is None else run_folder(config["resume"]) / LAST


def reason(exception: BaseException) -> str:
    """One line: an exception of a worker process carries its traceback in the message, the cause comes last."""
    lines = [line.strip() for line in str(exception).splitlines() if line.strip()]
    return lines[-1] if lines else type(exception).__name__


def _of_command(folders: Iterable[Path], config: Mapping[str, Any]) -> list[Run]:
    """Those of `folders` that hold a run of this command, with this seed."""
    wanted = (config_hash(dict(config)), config["seed"])
    return [run for run in _readable(folders) if (run.content.get("command_hash"), run.seed) == wanted]


def _readable(folders: Iterable[Path]) -> list[Run]:
    runs = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except ValueError:
            continue
    return runs


def _resumable(folder: Path) -> Run:
    try:
        run = read_run(folder)
    except ValueError as error:
        shared = "; process 0 resumes it: start in a folder that all machines share" if process_rank() > 0 else ""
        raise SettingError(f"resume={folder}: {error}{shared}") from error
    if not (folder / LAST).is_file():
        raise SettingError(f"resume={folder} broke off before its first checkpoint: start it anew, without resume")
    return run


def _with_circumstances(saved: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """`saved` with everything that changes no result taken from `config`."""
    for key in leaf_keys(config):
        if not changes_result(key) and key.partition(".")[0] in saved:
            saved = _with_value(saved, key.split("."), config)
    return saved


def _with_value(config: dict[str, Any], path: Sequence[str], source: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the value at `path` taken from `source`.

    A config group is taken whole, but what changes the result and is `auto` there stays as the run decided it: other
    devices might decide otherwise. The choices of `trainer` name devices: what changes the result and is at its default
    there was not asked for.
    """
    name, *rest = path
    before = config.get(name)
    if rest:
        return {**config, name: _with_value(dict(before or {}), rest, source[name])}
    value = source[name]
    if isinstance(value, Mapping) and isinstance(before, Mapping):
        target = str(value.get("_target_"))
        kept = [key for key in value if key in before and changes_result(f"{name}.{key}")]
        unsaid = {key: declared.attribute(target, key) if name == "trainer" else "auto" for key in kept}
        value = {**value, **{key: before[key] for key in kept if value[key] in ("auto", unsaid[key])}}
    return {**config, name: value}
