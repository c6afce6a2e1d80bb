"""The train.py command: one run from its config to its folder (build, describe, train, store the results)."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from anchorlab.analysis.ground_truth import input_size, scalar_axes
from anchorlab.build import build, build_callbacks, build_data, build_network, user_errors, without_weights
from anchorlab.config.composition import settings_of
from anchorlab.config.declared import targets
from anchorlab.config.identity import config_hash
from anchorlab.console import begin, console, in_sweep
from anchorlab.data.module import DataModule
from anchorlab.data.sample import LINES, DataError
from anchorlab.errors import FAILED, SettingError, user_sentences
from anchorlab.plots.contact_sheet import contact_sheet
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.runs.record import RunRecord
from anchorlab.trained.load import network_settings
from anchorlab.trained.start import start_with
from anchorlab.training import summary
from anchorlab.training.callbacks.checkpoints import BestCheckpoint, LastCheckpoint, SeedOfTheStep
from anchorlab.training.callbacks.data_wait import DataWatch
from anchorlab.training.callbacks.early_stopping import stopped_early
from anchorlab.training.callbacks.fit_tiers import FitTiers
from anchorlab.training.callbacks.health import Health
from anchorlab.training.callbacks.late_loggers import LateLoggers
from anchorlab.training.callbacks.recorder import MONITORED, Recorder, log_recall_table
from anchorlab.training.callbacks.stop_after import stopped_after
from anchorlab.training.hardware import decide, flush_denormals
from anchorlab.training.loggers.hub import Loggers, build_loggers
from anchorlab.training.loggers.protocol import End, RunFacts
from anchorlab.training.module import build_module
from anchorlab.training.peers import LostProcessError, Peers, peers
from anchorlab.training.preflight import fit_coder, look_ahead, with_fitted_anchors
from anchorlab.training.processes import check_launch, check_slurm
from anchorlab.training.resume import (
    CONTINUED,
    checkpoint_to_resume,
    lasting,
    position,
    reason,
    resumed_config,
)
from anchorlab.training.stopping import Stopped, StopRequest
from anchorlab.training.trainer import TrainerSettings

IDENTITY = ("choices", "config_hash", "anchor_hash", "commit", "dirty")
"""What loggers are told from the run's record."""

MakeNetwork = Callable[[Mapping[str, Any]], RegionProposalNetwork]


def run_from_command_line(config: DictConfig, make_network: MakeNetwork = build_network) -> None:
    """What train.py does with a composed config."""
    hydra = HydraConfig.get()
    with user_sentences():
        settings = settings_of(config)
    run_settings(settings, Path(hydra.runtime.output_dir), hydra.overrides.task, make_network)


def run_settings(
    settings: Mapping[str, Any], folder: Path, overrides: Sequence[str], make_network: MakeNetwork = build_network
) -> None:
    """Train, or go on, in `folder`; a person's error is one sentence and no traceback.

    Exit codes: 2 for settings and data that a person has to change, 1 for a run that broke, 128 + its number for a
    signal (of the first process; the others then leave with 0, so that none of them looks like a failure).
    """
    others = peers()
    try:
        with user_sentences(folder, lambda: summary.how_to_go_on(folder)), _telling(others, folder):
            config = resumed_config(settings, overrides)
            train(config, folder, overrides, make_network, StopRequest(ends_process=True), others)
    except Stopped as stopped:
        if rank_zero_only.rank == 0:
            print(f"\n{stopped}: {summary.how_to_go_on(folder)}", file=sys.stderr)
            raise SystemExit(stopped.exit_code) from stopped


@contextmanager
def _telling(others: Peers | None, folder: Path) -> Iterator[None]:
    """Tell the run's other processes why this one ends; of what they all know, one speaks."""
    try:
        yield
    except LostProcessError as error:
        if others is not None:
            others.tell("")
        if not error.is_mine_to_say:
            raise SystemExit(FAILED) from error
        raise LostProcessError(f"{error}; {summary.how_to_go_on(folder)}") from error
    except BaseException as error:
        if others is not None:
            others.tell(reason(error))
        raise


def train(
    config: Mapping[str, Any],
    folder: Path,
    overrides: Sequence[str] = (),
    make_network: MakeNetwork = build_network,
    stop: StopRequest | None = None,
    others: Peers | None = None,
) -> dict[str, float]:
    """Train one RPN into `folder`; the metrics of its last validation.

    Args:
        overrides: kept in the run's record.
        make_network: from the config to the network; the place for a network of one's own.
        stop: where signals arrive; None: as for a caller that goes on afterwards.
        others: the run's other processes, where torchrun or srun started them.

    Raises:
        SettingError: settings that fit no network, data or machine.
        DataError: a data set that cannot be used as it is.
        NonFiniteLossError: a loss that is infinite or not a number.
        LostWorkerError: a loading process that was killed or hangs.
        LostProcessError: another process of the run ended or does not answer.
        Stopped: a signal asked for it.
    """
    flush_denormals()
    if rank_zero_only.rank == 0:
        begin("reading data")
    record = RunRecord(folder)
    writes = rank_zero_only.rank == 0 and config["debug"]["look"] == 0
    if writes:
        with user_errors():
            record.claim()
        if config["resume"] is None and not config.get("overwrite"):
            record.refuse_to_lose(resumes=True)
    try:
        with stop or StopRequest() as stop:
            return _train(config, record, overrides, stop, make_network, others)
    except (SettingError, DataError) as error:
        if writes and (record.content or (config["resume"] is None and record.would_lose() is None)):
            if not record.content:
                record.start(config, config["seed"], overrides=overrides)
            record.fail(str(error).splitlines()[0])
            if isinstance(error, DataError) and len(error.problems) > LINES:
                record.write_problems(error.problems)
                error.listing = record.folder / "problems.txt"
        raise
    except Exception as error:
        lost = None if others is None else others.explain(error)
        # What breaks while it trains, the Recorder has noted already; of a lost process, torch's words.
        if writes and (record.content.get("status") == "running" or lost is not None):
            record.fail(str(lost or reason(error)))
        if lost is not None:
            raise lost from error
        raise
    except Stopped as stopped:
        # A run that is finished may still have waited for its loggers.
        if writes and record.content.get("status") == "running":
            record.interrupt(str(stopped))
        raise


def _train(
    config: Mapping[str, Any],
    record: RunRecord,
    overrides: Sequence[str],
    stop: StopRequest,
    make_network: MakeNetwork,
    others: Peers | None,
) -> dict[str, float]:
    command = config_hash(dict(config))
    seed_everything(config["seed"], verbose=False)
    data = build_data(config)
    config = with_fitted_anchors(config, data)
    network = make_network(_without_lost_weights(config))
    with user_errors():
        data.setup()
        data.check_accumulation(config["trainer"]["accumulate"])
    if config["debug"]["look"]:
        look(data, config["debug"]["look"], record.folder)
        return {}
    config = fit_coder(config, data, network)
    started_from = _start_weights(config, network)
    config = {**config, "trainer": decide(config["trainer"], network)}
    settings: TrainerSettings = build(config["trainer"], "trainer")
    settings.prepare_process()
    module = build_module(config, network, settings)
    notices = _start(record, config, data, network, overrides, command)
    notices = started_from + (notices or [])
    loggers = Loggers(build_loggers(config["logger"]))
    try:
        with user_errors():
            check_slurm()
            trainer = settings.trainer(_callbacks(config, record, stop), [loggers], record.folder)
            check_launch(trainer.num_devices * trainer.num_nodes, trainer.num_nodes)
            data.check_processes(trainer.world_size)
        if others is not None:
            others.meet(settings.timeout)
        _announce(config, record, data, network, settings, loggers, notices)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint_to_resume(config), weights_only=True)
        if module.scored_step != trainer.global_step:  # the last step was not the last of an epoch
            trainer.validate(module, datamodule=data, verbose=False)
        log_recall_table(loggers, module.recall)
        rung = stopped_after(trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]
        early = stopped_early(trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]
        return _conclude(record, config, data, loggers, rung, early) or {}  # nothing on other processes than the first
    finally:
        _close(loggers)


def _without_lost_weights(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config to build a network of that gets weights from elsewhere: ImageNet's need no download to be replaced."""
    if config.get("start") is None and config["resume"] is None:
        return config
    return {**config, "backbone": without_weights(config["backbone"])}


def _start_weights(config: Mapping[str, Any], network: RegionProposalNetwork) -> list[tuple[str, str]]:
    """The weights of `start`, and what the start screen says of them; a run that goes on has its own."""
    if config.get("start") is None or config["resume"] is not None:
        return []
    own = targets(network_settings(config))  # of classes that are imported already
    allow = sorted({name.partition(".")[0] for name in own if isinstance(name, str)})
    return [("start", start_with(network, config["start"], allow))]


@rank_zero_only
def _start(
    record: RunRecord,
    config: Mapping[str, Any],
    data: DataModule,
    network: RegionProposalNetwork,
    overrides: Sequence[str],
    command: str,
) -> list[tuple[str, str]]:
    """Begin the record; what the start screen says of the anchors before anything is trained."""
    if config["resume"] is None:
        record.clear()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    record.start(config, config["seed"], network.anchors.shapes, gpus, overrides, command)
    if config["resume"] is None:
        record.content["choices"] = _choices()
    record.add(axes=scalar_axes(network, input_size(data)))
    record.write_problems(data.listed)
    found = look_ahead(config, data, network)
    if found is None:
        return []
    record.add(axes=found.axes)
    said = {"coverage": found.line, "probe": found.probe, "warning": found.warning}
    return [(name, words) for name, words in said.items() if words is not None]


def _choices() -> dict[str, str]:
    """The names of the config groups' choices: assigner -> atss; empty where the config did not come from Hydra."""
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return {str(group): str(choice) for group, choice in chosen.items() if not str(group).startswith("hydra/")}


def look(data: DataModule, count: int, folder: Path) -> None:
    """Write a sheet of training images as the network sees them, with their boxes."""
    dataset = data.dataset("train", augmented=True)
    samples = [dataset[row].sample for row in range(min(count, len(dataset)))]
    path = contact_sheet(samples, folder / "figures" / "look.png")
    console().print(f"{len(samples)} training images as the network sees them: {path}", soft_wrap=True)


def _close(loggers: Loggers) -> None:
    """End the loggers of a run that did not come to its end; one that did has ended them."""
    raised = sys.exc_info()[1]
    end: End = "finished" if raised is None else "interrupted" if isinstance(raised, Stopped) else "failed"
    failures = loggers.finish(end)
    for title, failure in failures if raised is not None else ():
        print(f"{title}: {failure}", file=sys.stderr)


def _callbacks(config: Mapping[str, Any], record: RunRecord, stop: StopRequest) -> list[Callback]:
    """The config's callbacks, the record, and both checkpoints.

    `last` is a callback of its own: `save_last` would write it only when a better one is saved too.
    """
    folder, recorder = record.folder / "checkpoints", Recorder(record, config)
    return [
        *build_callbacks(config),
        SeedOfTheStep(config["seed"]),
        recorder,
        FitTiers(recorder),
        Health(record),
        DataWatch(record),
        LateLoggers(),
        BestCheckpoint(folder, MONITORED),
        LastCheckpoint(folder, config["trainer"]["checkpoint_every"], stop, config["resume"]),
    ]


@rank_zero_only
def _announce(
    config: Mapping[str, Any],
    record: RunRecord,
    data: DataModule,
    network: RegionProposalNetwork,
    settings: TrainerSettings,
    loggers: Loggers,
    notices: list[tuple[str, str]],
) -> None:
    """The start screen; and the loggers' start."""
    notices = [*notices, ("folder", str(record.folder))]
    if config["resume"] is not None:
        notices.append(("resumed", f"goes on from {position(record.folder)}"))
        if epochs := config.get(CONTINUED):
            now = config["trainer"]["epochs"]
            words = f"had {epochs[-1]} epochs: from here on its learning rate is that of a schedule of {now}, and jumps"
            notices.append(("", f"{words}; a new run of {now} epochs is another experiment"))
    loggers.start(
        RunFacts(
            record.folder,
            record.id,
            config,
            record.content["axes"],
            MONITORED,
            identity={key: record.content[key] for key in IDENTITY},
            resumed=config["resume"] is not None,
        ),
        behind=True,
    )
    notices += loggers.notices()
    if not in_sweep():
        summary.show_start(config, data, network, settings, notices)


@rank_zero_only
def _conclude(
    record: RunRecord,
    config: Mapping[str, Any],
    data: DataModule,
    loggers: Loggers,
    stop: int | None,
    early: str | None,
) -> dict[str, float]:
    """The end screen, and the metrics of the last validation.

    Args:
        stop: the epoch the run was told to stop after.
        early: why it ended before its last epoch by itself.
    """
    if stop is None:
        record.finish(early)
    else:
        record.pause(f"stopped after epoch {stop}, as callbacks.stop_after.epochs asks")
    metrics = record.content["figures"]["final"]
    loggers.log_timings(record.content["timings"])
    loggers.finish("finished")
    done = stop or (metrics.get("epoch") if early else None)
    epoch = "last epoch" if done is None else f"stopped after epoch {done}"
    title = f"{len(data.val_records):,} validation images, {epoch}"
    if not in_sweep():
        warnings = [("warning", sentence) for sentence in record.content["warnings"].values()]
        uncovered = record.content["axes"].get("coverage", 1.0) < config["preflight_least"]
        rows = [
            *warnings,
            *([("end", early)] if early else []),
            *summary.left_out(data, record.folder),
            ("folder", str(record.folder)),
            ("pictures", f"{record.folder / 'figures'}: {', '.join(_pictures(record.folder))}"),
            *loggers.notices(),
            *summary.next_steps(record.folder, config, lasting(record.content["overrides"], config), uncovered),
        ]
        summary.show_end(metrics, title, rows)
    return dict(metrics)


def _pictures(folder: Path) -> list[str]:
    """The names of the run's pictures; `proposals_epoch_*` for one of each epoch."""
    stems = sorted(path.stem for path in (folder / "figures").glob("*.png"))
    return list(dict.fromkeys(re.sub(r"_\d+$", "_*", stem) for stem in stems))
