"""The study.py command: measures anchors on a data set's boxes, given the backbone's grids and the assigner; trains
nothing.

No network is built but the backbone, for its strides, and that without weights; no image is decoded but the few drawn.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from anchorlab.analysis import baselines, report
from anchorlab.analysis.coverage import cover
from anchorlab.analysis.fitting import AnchorFit, Fitted
from anchorlab.analysis.ground_truth import BackboneGrids, GroundTruth, truth_of
from anchorlab.analysis.report import Scored
from anchorlab.build import build, user_errors, without_weights
from anchorlab.config.composition import settings_of
from anchorlab.console import Facts, bar, command, console, of_groups, typed
from anchorlab.cores import default_threads
from anchorlab.data.module import DataModule
from anchorlab.errors import SettingError, user_sentences
from anchorlab.installation import CONFIGS
from anchorlab.plots import coverage as pictures
from anchorlab.plots.boxes import save
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.atss import ATSSAssigner
from anchorlab.rpn.assigners.max_iou import Assigner, MaxIoUAssigner, yardstick
from anchorlab.runs.files import FolderLock, remove_leftovers, write_whole
from anchorlab.runs.json import plain
from anchorlab.runs.record import RunRecord
from anchorlab.training.hardware import flush_denormals, keep_freed_memory

OUR_FORMS = {"free": "fitted, free shapes", "grid": "fitted, sizes x ratios"}


def run_from_command_line(config: DictConfig) -> None:
    """What study.py does with a composed config; a person's error is one sentence and no traceback."""
    hydra = HydraConfig.get()
    with user_sentences():
        study(settings_of(config), Path(hydra.runtime.output_dir), hydra.overrides.task)


def study(config: Mapping[str, Any], folder: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Study one data set into `folder`; what study.json holds.

    Args:
        overrides: what was typed, for the command that is proposed next.

    Raises:
        SettingError: settings that fit no data or backbone, or a folder that another process writes.
        DataError: a data set that cannot be used as it is.
    """
    flush_denormals()
    keep_freed_memory()
    threads = config["trainer"]["threads"]
    torch.set_num_threads(default_threads() if threads == "auto" else threads)
    lock = FolderLock(folder)
    if not lock.acquire():
        raise SettingError(f"{folder} is being written by another process: wait for its end, or give another folder")
    try:
        remove_leftovers(folder)
        if not config["overwrite"]:
            RunRecord(folder).refuse_to_lose()
        return _study(config, folder, overrides)
    finally:
        lock.release()


def _study(config: Mapping[str, Any], folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    basis = _basis(config)
    console().print(Facts(_head(basis)))
    console().print()
    fits = config["fit"] or config["anchor"]["_target_"].endswith(AnchorFit.__name__)
    if config["probe"]:
        from anchorlab.commands.study_probe import run_probe  # networks and statistics, which no other study needs

        shared = of_groups(overrides, _groups())
        found, files, best = run_probe(config["candidates"], shared, basis.data, folder, config["probes"])
        training = command("train", [*shared, *best.overrides])
        rows = [*_left(folder, files), ("next", f"train on these anchors with: {training}")]
    else:
        found, files = _fit(basis, config, folder) if fits else _cover(basis, config, folder)
        rows = _where(folder, files, overrides, basis)
    console().print()
    console().print(Facts(rows))
    content = {"data": str(basis.data.root), "split": config["split"], "seconds_to_load": basis.seconds} | found
    write_whole(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))).encode())
    write_whole(folder / "study.json", f"{json.dumps(plain(content), indent=2, allow_nan=False)}\n".encode())
    return content


@dataclass(frozen=True)
class _Basis:
    """What every study of one config shares."""

    data: DataModule
    split: str
    strides: tuple[int, ...]
    assigner: MaxIoUAssigner  # by whose IoUs coverage goes
    trained: Assigner  # what assigns in training
    truth: GroundTruth
    grids: BackboneGrids
    seconds: float

    @property
    def is_trained_otherwise(self) -> bool:
        return self.trained is not self.assigner

    def held_out(self) -> GroundTruth | None:
        """The boxes that are scored, where they are others than those studied."""
        other = self.data.validate_on
        return None if other == self.split else truth_of(self.data, other, self.grids)


def _basis(config: Mapping[str, Any]) -> _Basis:
    started = time.perf_counter()
    backbone = build(without_weights(config["backbone"]), "backbone")
    data = build(config["data"], "data", augment=None, seed=0)
    with console().status("reading boxes"), user_errors():
        grids = BackboneGrids(backbone)
        truth = truth_of(data, config["split"], grids)
    if len(truth) == 0:
        raise SettingError(
            f"data.root={data.root} has no boxes in its split {config['split']}: there is nothing to study"
        )
    trained = build(config["assigner"], "assigner")
    assigner = yardstick(trained)
    seconds = round(time.perf_counter() - started, 2)
    return _Basis(data, config["split"], grids.strides, assigner, trained, truth, grids, seconds)


def _head(basis: _Basis) -> list[tuple[str, str]]:
    truth, data = basis.truth, basis.data
    sides = truth.sizes.unique(dim=0)
    size = (
        " x ".join(map(str, sides[0].tolist()))
        if len(sides) == 1
        else f"{len(sides):,} sizes up to {int(sides.max())} px"
    )
    bad = len(data.problems)
    left_out = f"; {bad} problem{'s' * (bad > 1)} left out" if bad else ""
    rule = f"object from IoU {basis.assigner.foreground_iou:g}, background below {basis.assigner.background_iou:g}"
    return [
        ("data", f"{data.root}, {basis.split}: {len(truth):,} boxes in {truth.num_images:,} images{left_out}"),
        ("network", f"input {size} (height x width); strides {', '.join(map(str, basis.strides))}"),
        ("coverage", rule + _border(basis.assigner)),
        *(
            [("", f"training goes by another rule, {type(basis.trained).__name__}'s")]
            if basis.is_trained_otherwise
            else []
        ),
    ]


def _border(assigner: MaxIoUAssigner) -> str:
    if assigner.border is None:
        return ""
    return f"; no anchors more than {assigner.border:g} px beyond the image"


def _cover(basis: _Basis, config: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """The coverage of one anchor configuration: tables, the map, the worst boxes; values and files."""
    anchors: AnchorGrid = build(config["anchor"], "anchor", strides=basis.strides)
    started = time.perf_counter()
    coverage = cover(basis.truth, anchors, basis.assigner)
    seconds = time.perf_counter() - started
    name = f"{basis.data.root.name}, {basis.split}"
    console().print(Facts([("anchors" if not i else "", line) for i, line in enumerate(report.anchor_lines(anchors))]))
    console().print()
    title = f"{len(basis.truth):,} boxes of {name}, covered in {seconds:.2f} s"
    console().print(report.coverage_table(coverage, title))
    console().print(Facts(report.legend(coverage)))
    figures = folder / "figures"
    files = [save(pictures.coverage_map(coverage, f"Coverage of {name}"), figures / "coverage.png")]
    worst = (
        pictures.worst_figure(coverage, basis.data.records(basis.split), config["worst"]) if config["worst"] else None
    )
    if worst is not None:
        files.append(save(worst, figures / "worst.png"))
    return report.coverage_values(coverage), files


def _fit(basis: _Basis, config: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """The best anchors of each k beside what others would take: a table, what to paste, coverage against k; values
    and files."""
    ks = config["ks"] or [config["anchor"]["k"]]
    rows = _scored(basis, config["anchor"], ks, basis.held_out(), config["baselines"])
    name = f"{basis.data.root.name}, {basis.split}"
    console().print(
        report.methods_table(rows, basis.assigner, f"Anchors chosen on {len(basis.truth):,} boxes of {name}")
    )
    console().print()
    curves = {row.method: {r.k: r.train["coverage"] for r in rows if r.method == row.method} for row in rows}
    knee = pictures.knee(curves[OUR_FORMS["free"]])
    if knee is not None:
        console().print(f"More anchors stop to pay at about k = {knee}.", soft_wrap=True)
    ours = {row: row.fitted for row in rows if row.fitted is not None}
    for row, fitted in ours.items():
        console().print(f"[bold]k = {row.k}, {row.method}[/bold]", soft_wrap=True)
        console().print(f"  {report.override(fitted)}", soft_wrap=True, markup=False)
    best = max((row for row in ours if row.k == (knee or max(ks))), key=lambda row: (row.val or row.train)["coverage"])
    threshold = f"boxes with an anchor of IoU >= {basis.assigner.foreground_iou:g}"
    figure = pictures.knee_figure(curves, knee, f"{name}: {threshold}")
    files = [
        *(_write_anchors(row, basis, folder) for row in sorted(ours, key=lambda row: row is not best)),
        save(figure, folder / "figures" / "coverage_by_k.png"),
        _map_of(ours[best], basis, folder),
    ]
    return {"knee": knee, "methods": [report.scored_values(row) for row in rows]}, files


def _scored(
    basis: _Basis, settings: Mapping[str, Any], ks: Sequence[int], held_out: GroundTruth | None, with_baselines: bool
) -> list[Scored]:
    """Each method with each k: chosen on the boxes studied, scored on them and on those held out."""
    sides = (basis.truth.boxes[:, 2:] - basis.truth.boxes[:, :2]).double().numpy()
    methods: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {}
    if with_baselines:
        methods = {
            "k-means (IoU)": baselines.iou_kmeans,
            "YOLOv5 k-means": baselines.yolo_kmeans,
            "MMDetection DE": baselines.mean_iou_evolution,
        }
    rows = []

    def score(method: str, k: int, anchors: AnchorGrid, fitted: Fitted | None = None) -> None:
        others = None if held_out is None else cover(held_out, anchors, basis.assigner).metrics
        rows.append(Scored(method, k, cover(basis.truth, anchors, basis.assigner).metrics, others, fitted))

    if with_baselines:
        default = baselines.torchvision_default(basis.strides)
        score("torchvision default", default.num_anchors[0], default)
    with bar(console()) as progress:
        task = progress.add_task("", total=len(ks) * (len(methods) + len(OUR_FORMS)))
        for k in ks:
            for method, choose in methods.items():
                progress.update(task, description=f"k = {k}: {method}")
                shapes = choose(sides, k * len(basis.strides), np.random.default_rng(0))
                levels = [level.tolist() for level in baselines.split_by_area(shapes, len(basis.strides))]
                score(method, k, AnchorGrid(shapes=levels, strides=basis.strides))
                progress.advance(task)
            for form, method in OUR_FORMS.items():
                progress.update(task, description=f"k = {k}: {method}")
                fit: AnchorFit = build({**settings, "k": k, "form": form}, "anchor", strides=basis.strides)
                with user_errors():
                    fitted = fit(basis.truth, basis.assigner)
                score(method, k, fitted.grid(basis.strides), fitted)
                progress.advance(task)
    return sorted(rows, key=lambda row: row.k)


def _write_anchors(row: Scored, basis: _Basis, folder: Path) -> Path:
    """The fitted anchors as a choice of the group `anchor`, below a folder for --config-dir."""
    assert row.fitted is not None
    form = "" if "shapes" in row.fitted.settings else "_grid"
    comment = (
        f"Fitted to {len(basis.truth):,} {basis.split} boxes of {basis.data.root.name}, strides {list(basis.strides)}: "
        f"{row.train['coverage']:.3f} of them have an anchor of IoU >= {basis.assigner.foreground_iou:g}."
    )
    path = folder / "conf" / "anchor" / f"fitted_k{row.k}{form}.yaml"
    write_whole(path, report.config_file(row.fitted, comment).encode())
    return path


def _map_of(fitted: Fitted, basis: _Basis, folder: Path) -> Path:
    coverage = cover(basis.truth, fitted.grid(basis.strides), basis.assigner)
    title = f"Coverage of {basis.data.root.name}, {basis.split}, by the fitted k = {fitted.settings['k']}"
    return save(pictures.coverage_map(coverage, title), folder / "figures" / "coverage.png")


def _left(folder: Path, files: Sequence[Path]) -> list[tuple[str, str]]:
    """What was written."""
    shown = [str(path.relative_to(folder)) for path in files]
    return [("folder", str(folder)), ("files", ", ".join(["study.json", *shown]))]


def _where(folder: Path, files: Sequence[Path], overrides: Sequence[str], basis: _Basis) -> list[tuple[str, str]]:
    """What was written, and the command that goes on with the same data: a training with fitted anchors, else a fit; a
    probe where coverage is not what the assigner goes by."""
    rows = _left(folder, files)
    kept = of_groups(overrides, [group for group in _groups() if group != "anchor"])
    fitted = [path for path in files if path.suffix == ".yaml"]
    if fitted:
        chosen = [f"--config-dir={typed(folder / 'conf')}", f"anchor={fitted[0].stem}"]
        return [*rows, ("next", f"train with the best of them with: {command('train', kept, *chosen)}")]
    if basis.is_trained_otherwise:
        verdict = [("verdict", report.ADVICE_FOR_ATSS)] if isinstance(basis.trained, ATSSAssigner) else []
        probe = command("study", kept, "probe=true")
        return [*verdict, *rows, ("next", f"see which anchors should train best on these images with: {probe}")]
    return [
        *rows,
        ("next", f"find the anchors that fit best with: {command('study', kept, 'fit=true anchor.k=3,6,9')}"),
    ]


def _groups() -> list[str]:
    """Groups of settings, of whatever command."""
    return [path.name for path in CONFIGS.iterdir() if path.is_dir()]
