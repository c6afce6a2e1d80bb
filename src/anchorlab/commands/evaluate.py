"""The evaluate.py command: scores trained networks on a data set and writes run folders as training does; trains
nothing.

By the same module, loaders and Trainer as the validation of a training: on its own split, with its own batches and
threads, a run gets its own metrics again to the last bit.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import seed_everything
from omegaconf import DictConfig

from anchorlab.analysis.ground_truth import input_size, scalar_axes
from anchorlab.build import build_validation_data
from anchorlab.commands import evaluate_report
from anchorlab.commands.evaluate_report import Evaluated
from anchorlab.config.composition import settings_of
from anchorlab.console import begin, console
from anchorlab.data.module import DataModule
from anchorlab.data.resize import resized
from anchorlab.errors import SettingError, user_sentences
from anchorlab.metrics.from_ranks import ar_of_oracle
from anchorlab.plots.boxes import proposals_figure, save
from anchorlab.rpn.proposals.tiered_nms import FittedTieredNMSSelector
from anchorlab.runs import gallery
from anchorlab.runs.record import RunRecord, read_run
from anchorlab.signatures import shown
from anchorlab.trained.coco import CocoFiles, largest_difference
from anchorlab.trained.device import settings_for
from anchorlab.trained.load import Trained, check_classes, find_trained, load_asked_for
from anchorlab.trained.scoring import Scoring
from anchorlab.training.callbacks.anchor_report import keep_outcome
from anchorlab.training.callbacks.fit_tiers import in_words, thresholds_on, with_thresholds
from anchorlab.training.callbacks.pictures import Pictures, kept
from anchorlab.training.callbacks.progress import ConsoleProgress
from anchorlab.training.callbacks.recorder import MONITORED, draw_recall, keep_ranks
from anchorlab.training.hardware import flush_denormals
from anchorlab.training.loggers.hub import Loggers, build_loggers
from anchorlab.training.loggers.protocol import RunFacts
from anchorlab.training.trainer import TrainerSettings

INSTEAD = {
    "data.short": "eval.size",
    "data.long": "eval.size",
    "data.pad_to": "eval.size",
    "data.validate_on": "eval.split",
    "data.limit_train": "eval.limit",
    "data.limit_val": "eval.limit",
    "data.batch_size": "eval.batch_size",
    "data.val_batch_size": "eval.batch_size",
    "data.workers": "eval.workers",
}
"""Keys of another data set that are taken from the run, and what changes them."""


USED = ("accelerator", "devices", "precision", "channels_last", "threads")
"""What of the group `trainer` an evaluation has of its own."""


def run_from_command_line(config: DictConfig) -> None:
    """What evaluate.py does with a composed config; a person's error is one sentence and no traceback."""
    hydra = HydraConfig.get()
    with user_sentences():
        _refuse_without_effect(hydra.overrides.task)
        evaluate(settings_of(config), Path(hydra.runtime.output_dir), hydra.overrides.task)


def evaluate(config: Mapping[str, Any], folder: Path, overrides: Sequence[str] = ()) -> list[Evaluated]:
    """Score every network of `run` at every size, print what came out, and leave it in `folder`.

    Raises:
        SettingError: no such network, data that it cannot be scored on, a data set that has no such split.
        DataError: a data set that cannot be used as it is.
    """
    flush_denormals()
    sizes = config["eval"]["size"] if isinstance(config["eval"]["size"], list) else [config["eval"]["size"]]
    sources = find_trained(config["run"])
    several = len(sizes) * len(sources) > 1
    found: list[Evaluated] = []
    for source in sources:
        trained = load_asked_for(config, source, finds_tiers=True)
        for size in sizes:
            name = trained.name if size is None else f"{trained.name} at {size} px"
            place = folder / f"{len(found):02d}-{name.replace(' ', '-')}" if several else folder
            found.append(_score(trained, name, config, size, place, overrides))
            evaluate_report.show(found[-1], brief=several)
    if several:
        evaluate_report.show_all(found, folder)
    return found


def _score(
    trained: Trained, name: str, config: Mapping[str, Any], size: int | None, folder: Path, overrides: Sequence[str]
) -> Evaluated:
    how, record = config["eval"], RunRecord(folder)
    if trained.file.resolve().is_relative_to(folder.resolve()):
        raise SettingError(f"run={trained.file} lies in {folder}, where the evaluation would go: give another folder")
    if not config["overwrite"]:
        record.refuse_to_lose()
    settings = evaluated_settings(trained, config, size)
    seed_everything(settings["seed"], verbose=False)
    check_classes(settings["data"], trained.file, config["allow"])
    data = build_validation_data(settings["data"], settings["seed"])
    machine = settings_for(settings.get("trainer"), trained.network, config["device"], config["precision"])
    machine.prepare_process()
    files = CocoFiles(folder, data.val_records) if how["proposals"] or how["check"] else None
    module = Scoring(trained.network, settings["seed"], machine.channels_last, how["flip"], files)
    settings = _with_tiers(module, trained, settings)
    _start(record, trained, settings, machine, data, overrides)
    with _started_loggers(config, record) as loggers:
        started = time.perf_counter()
        trainer = machine.trainer([ConsoleProgress()], [], folder)
        trainer.validate(module, datamodule=data, verbose=False)
        metrics = {key.removeprefix("val/"): float(value) for key, value in trainer.callback_metrics.items()}
        oracle = ar_of_oracle(module.recall.matches(), module.recall.budgets)
        metrics |= {f"oracle_{key}": value for key, value in oracle.items()}
        position = {"epoch": trained.epoch, "step": trained.step}
        timings = {"evaluation_s": round(time.perf_counter() - started, 2)}
        record.add(
            final=metrics | {key: value for key, value in position.items() if value is not None}, timings=timings
        )
        title = f"{len(data.val_records):,} images of {data.root.name}, {data.validate_on}"
        draw_recall(folder, keep_ranks(record, module.recall, data.val_records), f"{name}: {title}")
        _draw(module, data, folder, config["pictures"], config["top"])
        outcome = keep_outcome(module, data, config["outcome"], 100, folder)[0] if config["outcome"] else None
        record.write_problems(data.listed)
        record.finish()
        _log(loggers, record)
        if files is not None:
            files.close()
        return Evaluated(
            name=name,
            folder=folder,
            title=title,
            images=len(data.val_records),
            metrics=metrics,
            table=module.recall.table(),
            outcome=outcome,
            own=_own_metrics(trained, settings),
            difference=largest_difference(folder, metrics, module.recall.budgets) if how["check"] else None,
        )


def evaluated_settings(trained: Trained, config: Mapping[str, Any], size: int | None) -> dict[str, Any]:
    """The run's settings with what is evaluated otherwise: what config.yaml holds and identifies the result by.

    Raises:
        SettingError: a network that knows no data set, and none is given.
    """
    how, own, other = config["eval"], trained.config["data"], config.get("data")
    if other is None and "reader" not in own:
        raise SettingError(
            f"run={trained.file} is an exported model, which knows no data set: give one, data=coco data.root=..."
        )
    data = dict(other or own)
    if config["root"] is not None:
        data["root"] = config["root"]
    short, long = resized(*trained.resize, size)
    split = how["split"] or (own.get("validate_on", "val") if other is None else "val")
    data |= {"short": short, "long": long, "pad_to": own.get("pad_to", 1), "validate_on": split}
    if other is not None:
        data["limit_train"] = data["limit_val"] = None
        data |= {key: own[key] for key in ("batch_size", "val_batch_size", "workers") if key in own}
    for key, value in (("val_batch_size", how["batch_size"]), ("workers", how["workers"])):
        data[key] = data.get(key) if value is None else value
    if how["limit"] is not None:
        if split == "test":
            raise SettingError(f"eval.limit={how['limit']} is for the splits train and val: leave it out for test")
        data[f"limit_{split}"] = how["limit"]
    changed = {"flip": how["flip"], "checkpoint": trained.file.stem}
    usual = {"flip": False, "checkpoint": "last"}
    evaluation = {key: value for key, value in changed.items() if value != usual[key]}
    return {"seed": 0, **trained.config, "data": data, **({"evaluation": evaluation} if evaluation else {})}


def _with_tiers(module: Scoring, trained: Trained, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with the thresholds of `proposals=fit`, which are found here where the run has none.

    Raises:
        SettingError: an exported model, which knows no training images to find them on.
    """
    selector = module.network.selector
    if not isinstance(selector, FittedTieredNMSSelector) or selector.is_fitted:
        return settings
    own = trained.config["data"]
    if "reader" not in own:
        raise SettingError(
            "proposals=fit finds its thresholds on the run's training images, and an exported model knows none: "
            "evaluate the run, or give proposals.thresholds=[...]"
        )
    begin("finding the thresholds of tiered NMS on training images")
    data = build_validation_data({**own, "root": settings["data"]["root"], "validate_on": "train"}, settings["seed"])
    selector.fit(thresholds_on(module, data))
    found = with_thresholds(settings, selector)
    console().print(f"IoU between proposals at most: {in_words(selector)}", markup=False)
    console().print(f"'proposals.thresholds={shown(found['proposals']['thresholds'])}'", markup=False)
    return found


def _start(
    record: RunRecord,
    trained: Trained,
    settings: Mapping[str, Any],
    machine: TrainerSettings,
    data: DataModule,
    overrides: Sequence[str],
) -> None:
    record.clear()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    used = {key: getattr(machine, key) for key in USED}
    kept_settings = {**settings, "trainer": {**settings.get("trainer", {}), **used}}
    record.start(kept_settings, settings["seed"], trained.network.anchors.shapes, gpus, overrides)
    record.content["evaluated"] = {"file": str(trained.file), "run": None if trained.run is None else trained.run.id}
    axes = {} if trained.run is None else trained.run.axes
    record.add(axes=axes | scalar_axes(trained.network, input_size(data)))


@contextmanager
def _started_loggers(config: Mapping[str, Any], record: RunRecord) -> Iterator[Loggers]:
    """Those of the config group `logger`, begun and ended; they are told which run was evaluated."""
    loggers = Loggers(build_loggers(config.get("logger") or {}))
    identity = {key: record.content[key] for key in ("evaluated", "config_hash", "anchor_hash", "commit", "dirty")}
    axes = record.content["axes"]
    loggers.start(RunFacts(record.folder, record.id, read_run(record.folder).config, axes, MONITORED, identity, "eval"))
    try:
        yield loggers
    finally:
        loggers.finish("failed")  # without effect where `_log` has ended them


def _log(loggers: Loggers, record: RunRecord) -> None:
    """The metrics, at the place that the network had in its training, and the loggers' end."""
    metrics = dict(record.content["figures"]["final"])
    place = {key: max(int(metrics.pop(key, 1)) - 1, 0) for key in ("epoch", "step")}  # both are counted from 0 there
    loggers.log_metrics(
        {f"val/{key}": value for key, value in metrics.items()} | {"epoch": place["epoch"]}, place["step"]
    )
    loggers.log_timings(record.content["timings"])
    loggers.finish("finished")
    for title, line in loggers.notices():
        console().print(f"{title}: {line}", markup=False, soft_wrap=True)


def _draw(module: Scoring, data: DataModule, folder: Path, images: int, top: int) -> None:
    if images == 0:
        return
    pictures = Pictures(images, top, 1)
    pictures.choose(data)
    scenes = pictures.scenes(module)
    gallery.write_gallery(folder, [kept(scene) for scene in scenes])
    save(proposals_figure(scenes, top), folder / "figures" / "proposals.png")


def _own_metrics(trained: Trained, settings: Mapping[str, Any]) -> dict[str, float]:
    """What the run itself says, where nothing that changes metrics is another."""
    if "flip" in settings.get("evaluation", {}):
        return {}
    names = ("root", "short", "long", "pad_to", "validate_on", "limit_train", "limit_val", "reader", "categories")
    before, after = trained.config["data"], settings["data"]
    if any(before.get(name) != after.get(name) for name in names if name != "root"):
        return {}
    return trained.metrics


def _refuse_without_effect(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0]
        if key in INSTEAD:
            raise SettingError(f"{override} has no effect here, where the run's own holds: set {INSTEAD[key]} instead")
