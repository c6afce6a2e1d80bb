"""What configurations would be, before anything is trained: their anchors, heads, how well they cover the boxes.

Works in a process of its own (this module as a program: configs in, facts out, as JSON), so that torch and the data
set do not stay in memory while the sweep's jobs run.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from anchorlab.runs.identity import anchor_hash, config_hash
from anchorlab.settings import SettingError

if TYPE_CHECKING:
    from anchorlab.data.module import DataModule

# What gives an anchor its width and height; where it lies is said by the group's other keys.
SHAPE_KEYS = ("sizes", "ratios", "scale", "scales_per_octave", "shapes", "k", "order", "rounded")


@dataclass(frozen=True)
class Facts:
    """Of one configuration.

    key: the experiment's identity: configurations with the same anchors have the same, however they spell them.
    k: anchors per location, the most of any level; anchors_per_image: on the first validation image.
    train_images, val_images: in the data set, after limits.
    """

    key: str
    k: int
    anchors_per_image: int
    head_parameters: int
    train_images: int
    val_images: int
    coverage: float | None = None


def describe(configs: Sequence[Mapping[str, Any]]) -> list[Facts | SettingError]:
    """Facts of composed configs, in order; for one that fits no network or data, the error that says why.

    Raises:
        RuntimeError: where the process breaks off.
    """
    if not configs:
        return []
    command = [sys.executable, "-m", "anchorlab.sweeps.describe"]
    done = subprocess.run(command, input=json.dumps(configs), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {done.returncode}")
    return [SettingError(found) if isinstance(found, str) else Facts(**found) for found in json.loads(done.stdout)]


class Describer:
    """Config -> Facts. Data sets and backbones that configurations share are read and built once."""

    def __init__(self) -> None:
        self._backbones: dict[str, Any] = {}
        self._data: dict[str, DataModule] = {}
        self._grids: dict[Any, list[tuple[int, int]]] = {}

    def __call__(self, config: Mapping[str, Any]) -> Facts:
        """Facts of a composed config.

        Raises:
            SettingError: settings that fit no network.
            DataError: data that cannot be read.
        """
        from anchorlab.training.build import build, user_errors

        backbone, data = self._backbone(config), self._data_of(config)
        with user_errors():
            anchors = build(config["anchor"], strides=backbone.strides)
            head = build(config["head"], in_channels=backbone.channels, num_anchors=anchors.num_anchors)
        grids = self._feature_grids(config, data)
        count = sum(k * rows * columns for k, (rows, columns) in zip(anchors.num_anchors, grids, strict=True))
        return Facts(
            key=experiment_key(config, [shapes.tolist() for shapes in anchors.shapes]),
            k=max(anchors.num_anchors),
            anchors_per_image=count,
            head_parameters=sum(parameter.numel() for parameter in head.parameters()),
            train_images=len(data.train_records),
            val_images=len(data.val_records),
        )

    def _backbone(self, config: Mapping[str, Any]) -> Any:
        """Built without its weights: only its strides, channels and map sizes are asked for."""
        from anchorlab.training.build import build

        key = _text(config["backbone"])
        if key not in self._backbones:
            group = dict(config["backbone"])
            self._backbones[key] = build({**group, "weights": "none"} if "weights" in group else group)
        return self._backbones[key]

    def _data_of(self, config: Mapping[str, Any]) -> "DataModule":
        from anchorlab.training.build import build_data, user_errors

        key = _text(config["data"])
        if key not in self._data:
            data = build_data(config)
            with user_errors():
                data.setup()
            self._data[key] = data
        return self._data[key]

    def _feature_grids(self, config: Mapping[str, Any], data: "DataModule") -> list[tuple[int, int]]:
        """(height, width) of each level's map for the first validation image, from shapes alone."""
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode

        from anchorlab.data.resize import target_size

        record = data.val_records[0]
        size = target_size(record.height, record.width, data.short, data.long)
        key = (_text(config["backbone"]), size)
        if key not in self._grids:
            with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
                features = self._backbone(config)(torch.zeros(1, 3, *size))
            self._grids[key] = [(int(feature.shape[-2]), int(feature.shape[-1])) for feature in features]
        return self._grids[key]


def experiment_key(config: Mapping[str, Any], shapes: list[Any]) -> str:
    """Identity of an experiment by its anchors rather than by the settings that ask for them; the seed counts.

    Args:
        shapes: per level the (k, 2) width and height of its anchors.
    """
    anchor = {name: value for name, value in config["anchor"].items() if name not in SHAPE_KEYS}
    counted = {**config, "anchor": {**anchor, "shapes": anchor_hash(shapes)}}
    return f"{config_hash(counted)}-{config['seed']}"


def _text(group: Any) -> str:
    return json.dumps(group, sort_keys=True, default=str)


def main() -> None:
    """JSON list of configs on standard input -> JSON list of facts, or sentences, on standard output."""
    from anchorlab.data.sample import DataError

    describer = Describer()
    found: list[dict[str, Any] | str] = []
    with contextlib.redirect_stdout(sys.stderr):
        for config in json.load(sys.stdin):
            try:
                found.append(asdict(describer(config)))
            except (SettingError, DataError) as error:
                found.append(str(error).splitlines()[0])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
