"""Builder of all objects from a config: the only place that instantiates, and the only one that passes derived values.

Strides and channels go from the backbone to the anchors and the head, k from the anchors to the head; nothing is
typed twice. What a constructor refuses becomes a SettingError, so that a person reads one sentence.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback

from anchorlab.config.moved import with_current_names
from anchorlab.data.module import DataModule
from anchorlab.errors import SettingError
from anchorlab.rpn.network import RegionProposalNetwork

Config = Mapping[str, Any]


def build_network(config: Config) -> RegionProposalNetwork:
    """The network of the groups backbone, anchor, head, coder, assigner, sampler, loss, objectness, quality, proposals,
    cascade.

    Configs of before there were the last groups lack them; they mean the defaults.

    Raises:
        SettingError: the anchors, levels or weights cannot be built or loaded.
    """
    backbone = build(config["backbone"])
    anchors = build(config["anchor"], strides=backbone.strides)
    derived = {"in_channels": backbone.channels, "num_anchors": anchors.num_anchors}
    quality = build_optional(config.get("quality"))
    cascade = build_optional(config.get("cascade"), **derived, strides=backbone.strides)
    with user_errors():
        return RegionProposalNetwork(
            backbone=backbone,
            anchors=anchors,
            head=build(config["head"], **derived, quality=quality is not None),
            coder=build(config["coder"]),
            assigner=build(config["assigner"]),
            sampler=build(config["sampler"]),
            loss=build(config["loss"], objectness=build_optional(config.get("objectness"))),
            proposals=build(config["proposals"]),
            quality=quality,
            cascade=cascade,
        )


def build_data(config: Config) -> DataModule:
    """The data module of the groups data and augment; files are not read yet."""
    return build(config["data"], augment=build(config["augment"]), seed=config["seed"])


def build_validation_data(group: Config, seed: int = 0) -> DataModule:
    """The data module of the group data alone, without augmentation; the images that are scored have been read."""
    data: DataModule = build(group, augment=None, seed=seed)
    with user_errors():
        data.setup("validate")
    return data


def build_callbacks(config: Config) -> list[Callback]:
    return [build(callback) for callback in config["callbacks"].values()]


def build_optional(group: Config | None, **derived: Any) -> Any:
    """None for a group's choice `none`, and where there is no such group."""
    return None if group is None or group["_target_"] is None else build(group, **derived)


def build(group: Config, **derived: Any) -> Any:
    """Instantiate a group with plain containers, so that no ListConfig is mistaken for a list."""
    with user_errors():
        return instantiate(with_current_names(group), **derived, _convert_="all")


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn what a constructor, or Lightning's Trainer, refuses into a SettingError with the same sentence."""
    try:
        yield
    except SettingError:
        raise
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise SettingError(str(error.__cause__)) from error
        raise
    except (ValueError, MisconfigurationException) as error:
        raise SettingError(str(error)) from error
