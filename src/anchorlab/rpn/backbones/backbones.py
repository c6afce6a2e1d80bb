"""Backbones: turn images into feature maps of known strides and equal channels; know no anchors and no head.

B images | H, W height and width of the network's input | level = index of a feature map, finest first
"""

import difflib
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch.nn.functional as F
import torchvision
from annotated_types import Ge, MultipleOf, doc
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FeaturePyramidNetwork

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

    def plain_maps(self, images: Tensor) -> list[Tensor]:
        """As `body_maps`, operation by operation as in `forward`."""
        return self.body_maps(images)

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
        freeze_stages(self.body, [*pools, str(len(self.body) - 1)], frozen_stages)
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
            raise ValueError(f"name={name}: torchvision has no such ResNet; {suggest(name, known)}.")
        model = _torchvision_model(name, weights, classifier="fc")
        layers = [f"layer{i}" for i in range(1, 5)]
        widths = [model.inplanes // 8, model.inplanes // 4, model.inplanes // 2, model.inplanes]
        self.body = BackboneWithFPN(model, {layer: layer for layer in layers}, widths, fpn_channels)
        freeze_stages(self.body.body, ["maxpool", *layers], frozen_stages)
        self.batch_norm = batch_norm
        self.folded = fix_batch_norm(self.body.body, batch_norm)
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.body(images).values())

    def body_maps(self, images: Tensor) -> list[Tensor]:
        return list(fold_batch_norm.run(self.body.body, self.folded, images).values())

    def plain_maps(self, images: Tensor) -> list[Tensor]:
        return list(self.body.body(images).values())

    def pending_on(self, stages: Sequence[Tensor]) -> list[PendingMap]:
        return pending_pyramid(self.body.fpn, stages)

    def settle(self) -> None:
        fold_batch_norm.settle(self.body.body, self.folded)
        self.folded = {}


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
        return pyramid_maps(self.fpn, self.body_maps(images))

    def pending_on(self, stages: Sequence[Tensor]) -> list[PendingMap]:
        return pending_pyramid(self.fpn, stages)

    def body_maps(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[3:]


def pyramid_maps(fpn: FeaturePyramidNetwork, stages: Sequence[Tensor]) -> list[Tensor]:
    return list(fpn({str(level): feature for level, feature in enumerate(stages)}).values())


def pending_pyramid(fpn: FeaturePyramidNetwork, stages: Sequence[Tensor]) -> list[PendingMap]:
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


def plain_name(name: str) -> str:
    """One spelling for stages.0.conv of a timm model: its extractors say stages_0.conv or body.stages.0.conv."""
    return name.removeprefix("model.").removeprefix("body.").replace(".", "_")


def suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"the nearest is {close[0]}" if close else f"it has {', '.join(known[:3])}, ..."


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def freeze_stages(body: nn.Module, ends: Sequence[str], frozen_stages: int) -> None:
    """Freezes all from the input to the end of a stage; `ends` names the last module of each stage."""
    if frozen_stages > len(ends):
        raise ValueError(f"frozen_stages={frozen_stages}: give a number from 0 (none) to {len(ends)} (all).")
    if not frozen_stages:
        return
    end = plain_name(ends[frozen_stages - 1] + ".")
    modules = list(body.named_modules())  # in the order of the forward pass, a container before its parts
    inside = [i for i, (name, _) in enumerate(modules) if plain_name(name + ".").startswith(end)]
    if not inside:
        raise ValueError(f"frozen_stages={frozen_stages}: this model does not name its stages, use 0.")
    for _, module in modules[: inside[-1] + 1]:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def fix_batch_norm(body: nn.Module, batch_norm: str) -> dict[str, str]:
    """Freezes what `batch_norm` says, and folds norms of fixed statistics: convolution -> norm, for `run` there."""
    if batch_norm == "trainable":
        return {}
    if batch_norm == "frozen":
        for module in body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
    return fold_batch_norm.fold(body)
