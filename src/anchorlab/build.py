"""Builder of all objects from a config: the only place that instantiates, and the only one that passes derived values.

Strides and channels go from the backbone to the anchors and the head, k from the anchors to the head; nothing is
typed twice. What a constructor refuses becomes a SettingError, so that a person reads one sentence.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback

from anchorlab.config.instantiation import instantiate
from anchorlab.config.moved import with_current_names
from anchorlab.config.settings import check_signatures
from anchorlab.data.module import DataModule
from anchorlab.errors import SettingError, UserError
from anchorlab.rpn.backbones.backbones import Backbone
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.variants import variant

Config = Mapping[str, Any]

NETWORK_GROUPS = (
    *("backbone", "anchor", "head", "coder", "assigner", "sampler", "loss", "objectness", "proposals"),
    *("quality", "cascade", "refine"),
)
"""All that `build_network` reads of a config; one of before there were the last groups lacks them."""


def build_network(config: Config) -> RegionProposalNetwork:
    """The network of the groups `NETWORK_GROUPS`.

    Raises:
        SettingError: the anchors, levels or weights cannot be built or loaded.
    """
    return build_on(build(config["backbone"], "backbone"), config)


def build_on(backbone: Backbone, config: Config) -> RegionProposalNetwork:
    """The same on a backbone that was built before: all other parts are new."""
    anchors = build(config["anchor"], "anchor", strides=backbone.strides)
    derived = {"in_channels": backbone.channels, "num_anchors": anchors.num_anchors}
    quality = build_optional(config.get("quality"), "quality")
    cascade = build_optional(config.get("cascade"), "cascade", **derived, strides=backbone.strides)
    refine = build_optional(config.get("refine"), "refine", in_channels=backbone.channels, strides=backbone.strides)
    with user_errors():
        return variant(
            backbone=backbone,
            anchors=anchors,
            head=build(config["head"], "head", **derived, quality=quality is not None),
            coder=build(config["coder"], "coder"),
            assigner=build(config["assigner"], "assigner"),
            sampler=build(config["sampler"], "sampler"),
            loss=build(config["loss"], "loss", objectness=build_optional(config.get("objectness"), "objectness")),
            proposals=build(config["proposals"], "proposals"),
            quality=quality,
            cascade=cascade,
            refine=refine,
        )


def check_buildable(config: Config) -> None:
    """Raise SettingError where settings are at odds that are each possible: for a check before anything is written.

    Builds the network and the data module, and lets them go again. Nothing is read from disk, weights least of all, and
    the backbone takes no memory. Anchors that are fitted to boxes are built as the backbone's levels allow.
    """
    if "data" in config:
        build_data({"seed": 0, "augment": {"_target_": None}, **config})
    if "backbone" in config:
        with torch.device("meta"):
            backbone = build(without_weights(config["backbone"]), "backbone")
        anchors = build(config["anchor"], "anchor", strides=backbone.strides)
        if not hasattr(anchors, "num_anchors"):
            one = {"_target_": "anchorlab.rpn.AnchorGrid", "scale": 8, "ratios": [1], "k": config["anchor"]["k"]}
            config = {**config, "anchor": one}
        if all(group in config for group in NETWORK_GROUPS):
            build_on(backbone, config)
        elif "assigner" in config:
            build(config["assigner"], "assigner")


def without_weights(backbone: Config) -> Config:
    """The group `backbone` with random weights, for what asks only for its levels or brings weights of its own."""
    return {**backbone, "weights": "none"} if "weights" in backbone else backbone


def build_data(config: Config) -> DataModule:
    """The data module of the groups data and augment; files are not read yet."""
    augment = build_optional(config["augment"], "augment")
    return build(config["data"], "data", augment=augment, seed=config["seed"])


def build_validation_data(group: Config, seed: int = 0) -> DataModule:
    """The data module of the group data alone, without augmentation; the images that are scored have been read."""
    data: DataModule = build(group, "data", augment=None, seed=seed)
    with user_errors():
        data.setup("validate")
    return data


def build_callbacks(config: Config) -> list[Callback]:
    return [build(callback, f"callbacks.{name}") for name, callback in config["callbacks"].items()]


def build_optional(group: Config | None, key: str = "", /, **derived: Any) -> Any:
    """None for a group's choice `none`, and where there is no such group."""
    return None if group is None or group["_target_"] is None else build(group, key, **derived)


def build(group: Config, key: str = "", /, **derived: Any) -> Any:
    """Instantiate a group with plain containers, so that no ListConfig is mistaken for a list.

    Args:
        key: of the group in the config, put before the names of arguments in what its constructor refuses.

    Raises:
        SettingError: a value that the signature of its class refuses, or what a constructor refuses.
    """
    current = with_current_names(group)
    check_signatures(current, key, before_building=True)
    with user_errors(key, _names(current)):
        return instantiate(current, **derived)


@contextmanager
def user_errors(key: str = "", names: Iterable[str] = ()) -> Iterator[None]:
    """Turn what a constructor, or Lightning's Trainer, refuses into a SettingError with the same sentence.

    Args:
        key: of the config group, put before each of `names` that the sentence gives a value: `assigner.border=-1`.
    """
    try:
        yield
    except UserError:
        raise
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            part = re.search(r"^full_key: (\S+)$", str(error), re.MULTILINE)
            inner = f"{key}.{part[1]}" if key and part else key
            raise SettingError(_with_keys(str(error.__cause__), inner, names)) from error
        if missing := re.search(r"missing \d+ required .*?: (.+)", str(error.__cause__)):
            names = missing[1].replace("'", "")
            raise SettingError(f"{key} lacks what its class needs ({names}): choose another file") from error
        raise
    except (ValueError, MisconfigurationException) as error:
        raise SettingError(_with_keys(str(error), key, names)) from error


def _names(group: Config) -> list[str]:
    """The arguments of a group, and of the parts in it."""
    inner = [name for child in group.values() if isinstance(child, Mapping) for name in _names(child)]
    return [name for name in group if not name.startswith("_")] + inner


def _with_keys(sentence: str, key: str, names: Iterable[str]) -> str:
    """`border=-1 ...` -> `assigner.border=-1 ...`, wherever the sentence gives an argument's value."""
    known = "|".join(map(re.escape, names))
    return re.sub(rf"(?<![\w.])({known})(?==)", rf"{key}.\1", sentence) if key and known else sentence
