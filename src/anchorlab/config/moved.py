"""Classes that have moved: the names that configs of older runs hold, and their public names of today.

The identity of an experiment is computed on the old names, so that a move changes no hash.
"""

from collections.abc import Callable, Mapping
from typing import Any

from anchorlab.exports import home_of, public_names

MOVED_MODULES = {
    "anchorlab.rpn.assigners": "anchorlab.rpn.assigners.max_iou",
    "anchorlab.rpn.atss": "anchorlab.rpn.assigners.atss",
    "anchorlab.rpn.centre_region": "anchorlab.rpn.assigners.centre_region",
    "anchorlab.rpn.backbones": "anchorlab.rpn.backbones.backbones",
    "anchorlab.rpn.losses": "anchorlab.rpn.losses.box",
    "anchorlab.rpn.objectness": "anchorlab.rpn.losses.objectness",
    "anchorlab.rpn.quality": "anchorlab.rpn.losses.quality",
    "anchorlab.rpn.proposals": "anchorlab.rpn.proposals.nms",
    "anchorlab.rpn.tiered": "anchorlab.rpn.proposals.tiered_nms",
    "anchorlab.rpn.refinement": "anchorlab.rpn.cascade",
    "anchorlab.study.fitting": "anchorlab.analysis.fitting",
    "anchorlab.training.console": "anchorlab.training.callbacks.progress",
    "anchorlab.training.pictures": "anchorlab.training.callbacks.pictures",
    "anchorlab.training.outcome": "anchorlab.training.callbacks.anchor_report",
    "anchorlab.training.rungs": "anchorlab.training.callbacks.stop_after",
    "anchorlab.training.averaging": "anchorlab.training.callbacks.ema",
}
# Of a class with several older names the oldest stands last: that one is hashed.
MOVED_CLASSES = {
    "anchorlab.rpn.backbones.backbones.TimmFPN": "anchorlab.rpn.backbones.timm_fpn.TimmFPN",
    "anchorlab.rpn.backbones.TimmFPN": "anchorlab.rpn.backbones.timm_fpn.TimmFPN",
    "anchorlab.rpn.backbones.backbones.EfficientNetLite0FPN": "anchorlab.rpn.backbones.timm_fpn.EfficientNetLite0FPN",
    "anchorlab.rpn.backbones.EfficientNetLite0FPN": "anchorlab.rpn.backbones.timm_fpn.EfficientNetLite0FPN",
    "anchorlab.runs.loggers.CSVLogger": "anchorlab.training.loggers.csv.CSVLogger",
    "anchorlab.runs.loggers.WandbLogger": "anchorlab.training.loggers.wandb.WandbLogger",
}
# Wrapped since: older configs still name torch's own class and get it, and the hash counts both as the same.
WRAPPED = {
    "anchorlab.training.optimizers.adamw": "torch.optim.AdamW",
    "anchorlab.training.optimizers.sgd": "torch.optim.SGD",
}
OLD_MODULES = {new: old for old, new in MOVED_MODULES.items()}
OLD_CLASSES = {new: old for old, new in MOVED_CLASSES.items()} | WRAPPED


def with_current_names(config: Any) -> Any:
    """A copy of a config, or of a part of one, whose `_target_` entries name classes as the files in conf/ do today."""
    return _renamed(config, _current_name)


def with_old_names(config: Any) -> Any:
    """A copy of a config whose `_target_` entries name classes as the first runs did."""
    return _renamed(config, _old_name)


def _renamed(node: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(node, Mapping):
        return {
            key: rename(child) if key == "_target_" and isinstance(child, str) else _renamed(child, rename)
            for key, child in node.items()
        }
    return [_renamed(child, rename) for child in node] if isinstance(node, (list, tuple)) else node


def _current_name(name: str) -> str:
    home = _moved(name, MOVED_MODULES, MOVED_CLASSES)
    return public_names().get(home, home)


def _old_name(name: str) -> str:
    return _moved(home_of(name), OLD_MODULES, OLD_CLASSES)


def _moved(name: str, modules: Mapping[str, str], classes: Mapping[str, str]) -> str:
    module, dot, last = name.rpartition(".")
    return classes.get(name) or modules.get(module, module) + dot + last
