"""Start weights from torchvision's Faster R-CNN, copied even where its anchors differ; reads no AnchorLab checkpoint.

The RPN's 1x1 convolutions hold one kernel an anchor: each of ours begins as the one whose anchor overlapped its own
most, told in its own terms, so that at first it predicts the same boxes. What the second stage had is left out.

k anchors of ours per location, m of theirs | C channels
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from anchorlab.errors import SettingError
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.backbones.weights import read
from anchorlab.rpn.network import RegionProposalNetwork

DEFAULT_SIZES, DEFAULT_RATIOS, DEFAULT_STRIDES = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0), (4, 8, 16, 32, 64)
"""Of torchvision's detectors with a ResNet and a pyramid; its files do not say."""


def start_from_file(network: RegionProposalNetwork, path: str) -> str:
    """As `start_from`, with the state_dict in a file.

    Raises:
        SettingError: no such file, or one that does not fit; names the setting `start`.
    """
    try:
        return start_from(network, read(path))
    except ValueError as error:
        raise SettingError(str(error).replace("backbone.weights", "start")) from error


def start_from(network: RegionProposalNetwork, state: Mapping[str, Tensor], theirs: AnchorGrid | None = None) -> str:
    """Copy backbone and RPN of a torchvision Faster R-CNN into `network`; one line says which kernel came from where.

    Args:
        state: its state_dict.
        theirs: its anchors; None: torchvision's own for a ResNet with a pyramid.

    Raises:
        ValueError: another backbone, other 3x3 convolutions, or m of theirs that `theirs` does not have.
    """
    theirs = _default_anchors() if theirs is None else theirs
    head = {name.removeprefix("rpn.head."): tensor for name, tensor in state.items() if name.startswith("rpn.head.")}
    missing = {"cls_logits.weight", "bbox_pred.weight"} - set(head)
    if missing:
        raise ValueError("start holds no RPN of torchvision: give the state_dict of its whole Faster R-CNN")
    count = len(head["cls_logits.weight"])
    if set(theirs.num_anchors) != {count}:
        raise ValueError(
            f"start has {count} anchors per location and torchvision's default {theirs.num_anchors[0]}: call "
            "anchorlab.trained.torchvision.from_torchvision with the model, whose anchors it reads"
        )
    copied = _copy_backbone(network, state)
    _copy_convolutions(network, head)
    origin = nearest(network.anchors, theirs)
    with torch.no_grad():
        for k, source in origin.items():
            _copy_kernels(network, k, source, head)
    return f"backbone: {copied} tensors; {_in_words(network.anchors, theirs, origin)}"


class Origin(NamedTuple):
    """Where the kernels of k anchors come from, one entry an anchor."""

    index: tuple[int, ...]  # of theirs
    stretch: tuple[tuple[float, float], ...]  # width and height of theirs over ours
    iou: tuple[float, ...]


def nearest(ours: AnchorGrid, theirs: AnchorGrid) -> dict[int, Origin]:
    """For each k of ours, whose levels share kernels: where they come from.

    Shapes are compared centre on centre, each level with that of theirs of the nearest stride, in strides; the mean
    over levels counts, as each kernel serves all of them.
    """
    grouped: dict[int, list[int]] = {}
    for level, k in enumerate(ours.num_anchors):
        grouped.setdefault(k, []).append(level)
    found = {}
    for k, levels in grouped.items():
        pairs = [
            (ours.shapes[level] / ours.strides[level], _of_stride(theirs, ours.strides[level])) for level in levels
        ]
        iou = torch.stack([_centred_iou(a, b) for a, b in pairs]).mean(0)  # (k, m)
        index = iou.argmax(dim=1)
        stretch = torch.stack([(b[index] / a).log() for a, b in pairs]).mean(0).exp()  # (k, 2)
        chosen = iou.gather(1, index[:, None]).squeeze(1)
        sides = tuple((width, height) for width, height in stretch.tolist())
        found[k] = Origin(tuple(index.tolist()), sides, tuple(chosen.tolist()))
    return found


def _copy_backbone(network: RegionProposalNetwork, state: Mapping[str, Tensor]) -> int:
    wanted = network.backbone.state_dict()
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    # torchvision calls the whole backbone with its pyramid what is `body` to us.
    given = {f"body.{name.removeprefix('backbone.')}": t for name, t in state.items() if name.startswith("backbone.")}
    given |= {name.removeprefix("backbone.backbone."): t for name, t in state.items()}  # from `to_torchvision`
    wrong = [name for name in names if name not in given or given[name].shape != wanted[name].shape]
    if wrong:
        raise ValueError(
            f"start does not fit this backbone in {len(wrong)} of {len(names)} tensors ({', '.join(wrong[:3])}): "
            "choose the backbone that it was trained with, e.g. backbone=resnet50_fpn"
        )
    network.backbone.load_state_dict({name: given[name] for name in names}, strict=False)
    return len(names)


def _copy_convolutions(network: RegionProposalNetwork, head: Mapping[str, Tensor]) -> None:
    ours = [layer for layer in network.head.conv if isinstance(layer, nn.Conv2d)]
    # One convolution is conv.weight in torchvision's older files.
    spelled = ["conv.{}"] if "conv.weight" in head else [f"conv.{i}.0.{{}}" for i in range(len(ours))]
    theirs = [[head.get(name.format(kind)) for kind in ("weight", "bias")] for name in spelled]
    more = f"conv.{len(ours)}.0.weight" in head
    for layer, (weight, bias) in zip(ours, theirs, strict=False):
        if more or len(theirs) != len(ours) or weight is None or bias is None or weight.shape != layer.weight.shape:
            raise ValueError(
                "start has other 3x3 convolutions in its RPN: set head.convs and head.channels as it has them"
            )
        layer.load_state_dict({"weight": weight, "bias": bias})


def _copy_kernels(network: RegionProposalNetwork, k: int, origin: Origin, head: Mapping[str, Tensor]) -> None:
    scores, deltas = (cast(nn.Conv2d, part[str(k)]) for part in (network.head.scores, network.head.deltas))
    index = list(origin.index)
    for kind in ("weight", "bias"):
        theirs, ours = head[f"cls_logits.{kind}"][index], getattr(scores, kind)
        if network.head.objectness == "softmax":  # their logit is the difference of our two scores
            ours[0::2], ours[1::2] = -theirs / 2, theirs / 2
        else:
            ours.copy_(theirs)
        getattr(deltas, kind).copy_(_in_our_terms(head[f"bbox_pred.{kind}"], origin, kind == "bias").flatten(0, 1))


def _in_our_terms(theirs: Tensor, origin: Origin, is_bias: bool) -> Tensor:
    """(4m, ...) -> (k, 4, ...): the same boxes relative to our anchors, which are of another size."""
    parts = theirs.unflatten(0, (-1, 4))[list(origin.index)].clone()
    for part, (width, height) in zip(parts, origin.stretch, strict=True):
        part[0] *= width
        part[1] *= height
        if is_bias:
            part[2] += math.log(width)
            part[3] += math.log(height)
    return parts


def _default_anchors() -> AnchorGrid:
    return AnchorGrid(list(DEFAULT_SIZES), DEFAULT_RATIOS, rounded=True, order="ratio", strides=DEFAULT_STRIDES)


def _of_stride(anchors: AnchorGrid, stride: int) -> Tensor:
    """Shapes (m, 2) in strides, of the level whose stride is nearest."""
    level = min(range(len(anchors.strides)), key=lambda i: abs(math.log(anchors.strides[i] / stride)))
    return anchors.shapes[level] / anchors.strides[level]


def _centred_iou(a: Tensor, b: Tensor) -> Tensor:
    """(k, m) IoU of shapes (k, 2) and (m, 2) on one centre."""
    intersection = torch.minimum(a[:, None], b).prod(2)
    return intersection / (a.prod(1)[:, None] + b.prod(1) - intersection)


def _in_words(ours: AnchorGrid, theirs: AnchorGrid, origins: Mapping[int, Origin]) -> str:
    parts = []
    for k, origin in origins.items():
        level = ours.num_anchors.index(k)
        stride = ours.strides[level]
        old = (_of_stride(theirs, stride) * stride).tolist()
        pairs = zip(ours.shapes[level].tolist(), origin.index, origin.iou, strict=True)
        moves = [f"{_sides(shape)} from {_sides(old[i])} (IoU {iou:.2f})" for shape, i, iou in pairs]
        parts.append(f"1x1 kernels of k = {k}, named at stride {stride}: {', '.join(moves)}")
    return "; ".join(parts)


def _sides(shape: Sequence[float]) -> str:
    return f"{shape[0]:.0f} x {shape[1]:.0f}"
