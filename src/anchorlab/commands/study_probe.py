"""The study.py command with probe=true: which of several anchors would train to the best recall.

Every candidate is composed as train.py would compose it, so that what is probed is what would be trained.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from anchorlab.analysis.ground_truth import (
    BackboneGrids,
    GroundTruth,
    anchors_per_image,
    feature_grids,
    input_size,
    truth_of,
)
from anchorlab.analysis.probe import Budget, Trunk, probe
from anchorlab.build import build, build_on
from anchorlab.cli.overrides import check_overrides
from anchorlab.comparing.statistics import Bootstrap, Difference, Group
from anchorlab.config.composition import own_choices_of
from anchorlab.config.identity import anchor_hash
from anchorlab.console import Column, Facts, TextTable, bar, console
from anchorlab.data.module import DataModule
from anchorlab.errors import SettingError
from anchorlab.installation import CONFIGS
from anchorlab.metrics.from_ranks import Metric
from anchorlab.metrics.recall import ProposalRecall
from anchorlab.plots import probe as pictures
from anchorlab.plots.boxes import save
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.variants import CascadeRPN
from anchorlab.training import known_probes
from anchorlab.training.known_probes import KnownProbe
from anchorlab.training.preflight import fit_coder, with_fitted_anchors

METRICS = ("AR_10", "AR_100", "AR_1000")
JUDGED_BY = "AR_100"


@dataclass(frozen=True)
class Candidate:
    """One configuration and what is expected of it.

    overrides: what makes it differ from the others. metrics: of its probe, on held-out training images. behind: its
    AR@100 less the best one's; None for the best itself.
    """

    overrides: tuple[str, ...]
    k: int
    anchors_per_image: int
    metrics: Mapping[str, float]
    behind: Difference | None

    @property
    def label(self) -> str:
        return " ".join(override.removeprefix("anchor.") for override in self.overrides)

    @property
    def as_good_as_best(self) -> bool:
        """Whether nothing says that it is worse than the best."""
        return self.behind is None or not self.behind.high < 0


def run_probe(
    candidates: Sequence[Sequence[str]], shared: Sequence[str], data: DataModule, folder: Path, probes: str | None
) -> tuple[dict[str, Any], list[Path], Candidate]:
    """Probe the candidates and say which to take: values for study.json, files, and that one.

    Args:
        candidates: what makes each differ from the others, as overrides of train.py.
        shared: what was typed for all of them, of settings that train.py has.
        probes: where the verdict is kept for the start screens of trainings; None: nowhere.

    Raises:
        SettingError: a candidate that train.py would refuse, or a network that cannot be probed.
        DataError: a data set that cannot be used as it is.
    """
    own = own_choices_of(HydraConfig.get())
    configs = [check_overrides("train", CONFIGS, [*shared, *candidate], own) for candidate in candidates]
    configs = [with_fitted_anchors(config, data) for config in configs]
    budget = Budget(seed=configs[0]["seed"])
    torch.manual_seed(budget.seed)  # the networks start with random weights
    networks = networks_on_a_trunk(configs, [" ".join(candidate) for candidate in candidates], data)
    found = _probed(networks, data, budget, configs[0])
    rows = _judged(candidates, networks, data, found)
    chosen = choice(rows)
    looks_twice = configs[0]["refine"]["_target_"] is not None
    _say(rows, chosen, next(iter(found.values())), [("probed", FIRST_STAGE)] if looks_twice else [])
    anchors = {row.label: networks[" ".join(row.overrides)].anchors for row in rows}
    truth = truth_of(data, "train", BackboneGrids(next(iter(networks.values())).backbone))
    by_hash = {anchor_hash(anchors[row.label].shapes): row.metrics[JUDGED_BY] for row in rows}
    known = KnownProbe(f"{date.today()}", verdict(rows, chosen), by_hash)
    known_probes.keep(probes, configs[0], truth, known)
    files = _drawn(rows, anchors, truth, data.root.name, folder / "figures")
    content = {"candidates": [_values(row) for row in rows], "chosen": list(chosen.overrides)}
    return content, files, chosen


FIRST_STAGE = "the first stage alone, as no probe trains the second look"
BEWARE = "a probe trains the last layers alone, for minutes; how well it foretold trainings: docs/which-anchors.md"


def choice(rows: Sequence[Candidate]) -> Candidate:
    """Of those that cannot be told from the best, the one with the fewest anchors; of these the best."""
    good = [row for row in rows if row.as_good_as_best]
    return min(good, key=lambda row: (row.anchors_per_image, -row.metrics[JUDGED_BY]))


def verdict(rows: Sequence[Candidate], chosen: Candidate) -> str:
    """What to take, and why, in words."""
    metrics = [row.metrics[JUDGED_BY] for row in rows]
    spread = f"expected AR@100 spreads over {max(metrics) - min(metrics):.3f}"
    count = sum(row.as_good_as_best for row in rows)
    why = "it has the fewest anchors per image" if count > 1 else "all others are expected to be worse"
    if count == len(rows):
        told = "no difference between these anchors can be told"
    elif count > 1:
        told = f"{count} of {len(rows)} cannot be told from the best"
    else:
        told = "the best one stands out"
    return f"{spread}; {told}: take {' '.join(chosen.overrides)}, as {why}"


def networks_on_a_trunk(
    configs: Sequence[Mapping[str, Any]], names: Sequence[str], data: DataModule
) -> dict[str, RegionProposalNetwork]:
    """A network for each candidate, all on one trunk, with heads of 1x1 convolutions, and without a second look."""
    backbone = build(configs[0]["backbone"], "backbone")
    first = build_on(backbone, {**configs[0], "refine": None})
    if isinstance(first, CascadeRPN):
        raise SettingError(
            "cascade moves its anchors before the head sees them, which no probe foretells: add cascade=none"
        )
    tower = first.head.conv
    trunk = Trunk(backbone, tower, configs[0]["head"]["channels"] or backbone.channels)
    networks = {}
    for name, config in zip(names, configs, strict=True):
        head = {**config["head"], "convs": 0, "channels": None}
        network = build_on(trunk, {**config, "refine": None, "head": head})
        fit_coder(config, data, network)
        networks[name] = network
    return networks


def _probed(
    networks: Mapping[str, RegionProposalNetwork], data: DataModule, budget: Budget, config: Mapping[str, Any]
) -> dict[str, ProposalRecall]:
    body_is_random = config["backbone"].get("weights", "none") == "none"
    with bar(console()) as progress:
        task = progress.add_task("")

        def shown(what: str, done: int, steps: int) -> None:
            progress.update(task, description=what, completed=done, total=steps)

        return probe(networks, data, budget, body_is_random, shown)


def _judged(
    candidates: Sequence[Sequence[str]],
    networks: Mapping[str, RegionProposalNetwork],
    data: DataModule,
    found: Mapping[str, ProposalRecall],
) -> list[Candidate]:
    """The candidates, the best first."""
    metrics = [recall.compute() for recall in found.values()]
    per_image = [Metric.of(JUDGED_BY).per_image(recall.matches()) for recall in found.values()]
    best = max(range(len(metrics)), key=lambda at: metrics[at][JUDGED_BY])
    groups = [Group((None,), boxes[None]) for boxes, _ in per_image]
    behind = Bootstrap().against(best, groups, per_image[0][1])
    grids = feature_grids(next(iter(networks.values())), input_size(data))
    rows = [
        Candidate(
            tuple(candidate),
            max(network.anchors.num_anchors),
            anchors_per_image(network.anchors.num_anchors, grids),
            {name: values[name] for name in METRICS},
            difference,
        )
        for candidate, network, values, difference in zip(candidates, networks.values(), metrics, behind, strict=True)
    ]
    return sorted(rows, key=lambda row: -row.metrics[JUDGED_BY])


def _say(rows: Sequence[Candidate], chosen: Candidate, recall: ProposalRecall, more: Sequence[tuple[str, str]]) -> None:
    images = f"{len(recall.matches().index)} held-out training images"
    console().print(_table(rows, chosen, f"Expected of a training with each, by a probe scored on {images}"))
    console().print()
    console().print(Facts([("verdict", verdict(rows, chosen)), *more, ("beware", BEWARE)]))


def _drawn(
    rows: Sequence[Candidate], anchors: Mapping[str, AnchorGrid], truth: GroundTruth, data: str, folder: Path
) -> list[Path]:
    """Files of both pictures; anchors: by label."""
    expected = {row.label: row.metrics[JUDGED_BY] for row in rows}
    good = {row.label for row in rows if row.as_good_as_best}
    figures = {
        "probe": pictures.candidates_figure(expected, good, data),
        "probe_anchors": pictures.shapes_figure(expected, good, anchors, truth),
    }
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def _table(rows: Sequence[Candidate], chosen: Candidate, title: str) -> TextTable:
    columns = [
        Column("anchors", left=True),
        Column("k", spare=1),
        Column("anchors\nan image", spare=2),
        *(Column(str(Metric.of(name)), spare=0 if name == JUDGED_BY else 3) for name in METRICS),
        Column("behind the best\n(95 %)"),
    ]
    table = TextTable(columns, title)
    for row in rows:
        shown = [f"{row.metrics[name]:.3f}" for name in METRICS]
        table.add(
            row.label, str(row.k), f"{row.anchors_per_image:,}", *shown, _interval(row.behind), bold=row is chosen
        )
    return table


def _interval(behind: Difference | None) -> str:
    return "" if behind is None else f"{behind.estimate:+.3f} [{behind.low:+.3f}, {behind.high:+.3f}]"


def _values(row: Candidate) -> dict[str, Any]:
    """A candidate for study.json."""
    behind = None if row.behind is None else dataclasses.asdict(row.behind)
    return {
        "overrides": list(row.overrides),
        "k": row.k,
        "anchors_per_image": row.anchors_per_image,
        "metrics": dict(row.metrics),
        "behind": behind,
    }
