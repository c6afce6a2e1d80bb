"""Descriptions of a sweep's configurations before training: their anchors, heads and coverage of the boxes.

Works in a process of its own (`main`: configs in, facts out, as JSON), so that the data set does not stay in memory
while the sweep's jobs run.
"""

import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from anchorlab.config import declared
from anchorlab.config.identity import anchor_hash, config_hash
from anchorlab.config.settings import check_signatures
from anchorlab.errors import SettingError
from anchorlab.sweeps.forker import ask

if TYPE_CHECKING:
    from anchorlab.analysis.ground_truth import GroundTruth
    from anchorlab.data.module import DataModule
    from anchorlab.rpn.anchors import AnchorGrid

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """Of one configuration.

    key: the experiment's identity, equal for all ways to write the same anchors.
    k: anchors per location, the most of any level; anchors_per_image: on the first validation image.
    coverage: share of the training boxes that an anchor overlaps with at least assigner.foreground_iou.
    mean_best_iou: of the training boxes with their best anchor.
    seconds: a whole job's, from a few steps timed; None where none were.
    """

    key: str
    k: int
    anchors_per_image: int
    head_parameters: int
    coverage: float
    mean_best_iou: float
    seconds: float | None = None


def describe(configs: Sequence[Config], probe: bool = False) -> list[Facts | SettingError]:
    """Facts of composed configs, in order; for one that fits no network or data, the error that says why.

    Args:
        probe: time a few steps of each kind of network and input.

    Raises:
        RuntimeError: where the process breaks off.
    """
    if not configs:
        return []
    found = ask("anchorlab.sweeps.describe", {"configs": configs, "probe": probe}, configs[0])
    return [SettingError(facts) if isinstance(facts, str) else Facts(**facts) for facts in found]


def experiment_key(config: Config, shapes: Sequence[Any]) -> str:
    """Identity of an experiment by its anchors rather than by the settings that ask for them; the seed counts.

    Args:
        shapes: per level the (k, 2) width and height of its anchors.
    """
    group = config["anchor"]
    placing = declared.attribute(group["_target_"], "PLACING")
    anchor = group if placing is None else {name: group[name] for name in ("_target_", *placing) if name in group}
    counted = {**config, "anchor": {**anchor, "shapes": anchor_hash(shapes)}}
    return f"{config_hash(counted)}-{config['seed']}"


def main() -> None:
    """Of that process: JSON on standard input -> JSON list of facts, or sentences, on standard output."""
    started = time.perf_counter()
    asked = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        describer = Describer()
        found = describer.describe(asked["configs"])
        if asked["probe"]:
            found = _with_seconds(describer.settled, found, started)
    print(json.dumps([asdict(facts) if isinstance(facts, Facts) else facts for facts in found]))


class Describer:
    """Configs -> Facts. Data sets and backbones that configurations share are read and built once.

    Attributes:
        settled: by position, the configs that can be built, with fitted anchors in the place of anchor=fit.
    """

    def __init__(self) -> None:
        self.settled: dict[int, Config] = {}
        self._backbones: dict[str, Any] = {}
        self._data: dict[str, DataModule] = {}
        self._truth: dict[str, GroundTruth] = {}

    def describe(self, configs: Sequence[Config]) -> list[Facts | str]:
        """Facts of each config, or the sentence that says why it fits no network or data."""
        from anchorlab.data.sample import DataError
        from anchorlab.training.preflight import with_fitted_anchors

        found: list[Facts | str] = []
        grids: dict[int, AnchorGrid] = {}
        for index, config in enumerate(configs):
            try:
                check_signatures(config)
                settled = with_fitted_anchors(config, self._data_of(config))
                facts, grids[index] = self._facts(settled)
            except (SettingError, DataError) as error:
                found.append(str(error).splitlines()[0])
            else:
                self.settled[index] = settled
                found.append(facts)
        for index, metrics in self._coverage(grids).items():
            facts = found[index]
            assert isinstance(facts, Facts)
            found[index] = replace(facts, coverage=metrics["coverage"], mean_best_iou=metrics["mean_best_iou"])
        return found

    def _facts(self, config: Config) -> tuple[Facts, "AnchorGrid"]:
        """All but the coverage, and the anchors to find it from."""
        import torch

        from anchorlab.analysis.ground_truth import BackboneGrids, anchors_per_image, input_size
        from anchorlab.build import build, build_on

        build(config["augment"], "augment")  # raises where its arguments contradict each other
        backbone = self._backbone(config)
        network = build_on(backbone, config)
        anchors = network.anchors
        height, width = input_size(self._data_of(config))
        rows_and_columns = BackboneGrids(backbone)(torch.tensor([[height, width]]))[0].tolist()
        facts = Facts(
            key=experiment_key(config, [shapes.tolist() for shapes in anchors.shapes]),
            k=max(anchors.num_anchors),
            anchors_per_image=anchors_per_image(anchors.num_anchors, rows_and_columns),
            head_parameters=sum(parameter.numel() for parameter in network.head.parameters()),
            coverage=float("nan"),
            mean_best_iou=float("nan"),
        )
        return facts, anchors

    def _coverage(self, grids: Mapping[int, "AnchorGrid"]) -> dict[int, dict[str, float]]:
        """The coverage of each of `grids`; grids of the same boxes and assigner are computed together."""
        from anchorlab.analysis.coverage import cover_many
        from anchorlab.build import build

        together: dict[str, list[int]] = {}
        for index in grids:
            key = _text([self.settled[index][name] for name in ("backbone", "data", "assigner")])
            together.setdefault(key, []).append(index)
        metrics: dict[int, dict[str, float]] = {}
        for indices in together.values():
            config = self.settled[indices[0]]
            of_all = cover_many(
                self._ground_truth(config), [grids[index] for index in indices], build(config["assigner"], "assigner")
            )
            metrics |= dict(zip(indices, of_all, strict=True))
        return metrics

    def _backbone(self, config: Config) -> Any:
        """Built without its weights: only its strides, channels and map sizes are asked for."""
        from anchorlab.build import build, without_weights

        key = _text(config["backbone"])
        if key not in self._backbones:
            self._backbones[key] = build(without_weights(config["backbone"]), "backbone")
        return self._backbones[key]

    def _ground_truth(self, config: Config) -> "GroundTruth":
        """The training boxes as the network gets them."""
        from anchorlab.analysis.ground_truth import BackboneGrids, truth_of

        key = _text([config["backbone"], config["data"]])
        if key not in self._truth:
            self._truth[key] = truth_of(self._data_of(config), "train", BackboneGrids(self._backbone(config)))
        return self._truth[key]

    def _data_of(self, config: Config) -> "DataModule":
        from anchorlab.build import build_data, user_errors

        key = _text(config["data"])
        if key not in self._data:
            data = build_data(config)
            with user_errors():
                data.setup()
            self._data[key] = data
        return self._data[key]


def _with_seconds(configs: Mapping[int, Config], found: Sequence[Facts | str], started: float) -> list[Facts | str]:
    """The facts with times: each kind of network, input and precision is timed once."""
    from anchorlab.sweeps.stopwatch import Pace, pace_of

    paces: dict[str, Pace | None] = {}
    timed = list(found)
    for index, config in configs.items():
        facts = found[index]
        key = _text([config[name] for name in ("backbone", "head", "data", "trainer")])
        if key not in paces:
            paces[key] = pace_of(config, started)
        pace = paces[key]
        if pace is not None and isinstance(facts, Facts):
            timed[index] = replace(facts, seconds=pace.seconds(config))
    return timed


def _text(group: Any) -> str:
    return json.dumps(group, sort_keys=True, default=str)
