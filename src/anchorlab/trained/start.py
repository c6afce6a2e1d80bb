"""Start weights: those of another network with an RPN, copied even where its anchors differ; trains nothing.

The other network is a run, checkpoint or export of AnchorLab, or torchvision's Faster R-CNN, of which the second stage
is left out. The RPN's 1x1 convolutions hold one kernel an anchor: each of ours begins as the one whose anchor
overlapped its own most, told in its own terms, so that at first it predicts the same boxes.

k anchors of ours per location, m of theirs | C channels
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anchorlab.errors import SettingError
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.backbones.weights import read
from anchorlab.rpn.cascade import AnchorRefinement
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.refine import SecondLook
from anchorlab.rpn.variants import CascadeRPN, RefinedRPN
from anchorlab.trained.load import load_trained

DEFAULT_SIZES, DEFAULT_RATIOS, DEFAULT_STRIDES = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0), (4, 8, 16, 32, 64)
"""Of torchvision's detectors with a ResNet and a pyramid, whose files do not say."""

SHAPES, FACTORS = "rpn.anchor_generator.shapes.", "rpn.box_coder.weights"
"""In a detector's state_dict that holds them: width and height (m, 2) of the anchors of each level, whose number is
behind the first name, and the coder's four factors."""

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Donor:
    """A network with an RPN whose weights another one begins with.

    backbone: as the state_dict of ours names it. convs: weight and bias of each 3x3 convolution of the head.
    kernels: by the number of anchors per location, as levels of equal number share them, and by output ("scores",
    "deltas", "quality"), weight and bias. coder: what its deltas mean. cascade: the state_dict of a first stage that
    moves anchors, whose moves have a coder of their own. refine: that of a second look. note: what the start screen
    says besides.
    """

    backbone: State
    convs: Sequence[State]
    kernels: Mapping[int, Mapping[str, State]]
    anchors: AnchorGrid
    coder: DeltaCoder = field(default_factory=DeltaCoder)
    cascade: State = field(default_factory=dict)
    cascade_coder: DeltaCoder = field(default_factory=DeltaCoder)
    refine: State = field(default_factory=dict)
    note: str = ""


def start_with(network: RegionProposalNetwork, source: str, allow: Sequence[str] = ()) -> str:
    """Begin `network` with the weights of a run's folder, a checkpoint, an export, or a detector's state_dict file.

    Args:
        allow: packages besides anchorlab whose classes the settings of a run may name; building one runs its code.

    Returns:
        One line that says which kernel came from where.

    Raises:
        SettingError: nothing of that kind, or weights that do not fit; names the setting `start`.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise SettingError(
            f"start={source} does not exist: give the folder of a run, a checkpoint (.ckpt), an exported model, or the "
            "state_dict of torchvision's Faster R-CNN (.pth, .safetensors)"
        )
    try:
        if path.is_dir() or path.suffix == ".ckpt" or path.with_suffix(".json").is_file():
            donor = of_network(load_trained(source, allow=allow).network)
        else:
            donor = of_detector(read(source), network.backbone.strides)
        return start_from(network, donor)
    except ValueError as error:
        words = str(error)
        for key in ("backbone.weights=", "run="):
            words = words.replace(f"{key}{source}", f"start={source}")
        raise SettingError(words) from error


def start_from(network: RegionProposalNetwork, donor: Donor) -> str:
    """Copy the donor's weights into `network`; returns one line on the origin of each kernel.

    Raises:
        ValueError: another backbone, other 3x3 convolutions, or a cascade in one of the two.
    """
    _check_cascades(network, donor)
    copied = _copy_backbone(network, donor.backbone)
    _copy_convolutions(network, donor.convs)
    origins = nearest(network.anchors, donor.anchors)
    with torch.no_grad():
        for k, origin in origins.items():
            _copy_kernels(network, k, origin, donor)
            if isinstance(network, CascadeRPN):
                _copy_cascade(network.cascade, origin, donor)
    words = [f"backbone: {copied} tensors", _in_words(network.anchors, donor.anchors, origins)]
    if network.head.quality is not None and not all("quality" in kernels for kernels in donor.kernels.values()):
        words.append("the quality output begins anew")
    if isinstance(network, RefinedRPN) and not _copy_second_look(network.refine, donor.refine):
        words.append("the second look begins anew")
    return "; ".join([*words, *([donor.note] if donor.note else [])])


def of_network(network: RegionProposalNetwork) -> Donor:
    """A network of ours as a donor."""
    head = network.head
    parts = {"scores": head.scores, "deltas": head.deltas} | ({} if head.quality is None else {"quality": head.quality})
    donor = Donor(
        backbone=network.backbone.state_dict(),
        convs=[layer.state_dict() for layer in head.conv if isinstance(layer, nn.Conv2d)],
        kernels={
            k: {name: part[str(k)].state_dict() for name, part in parts.items()} for k in sorted(set(head.num_anchors))
        },
        anchors=network.anchors,
        coder=network.coder,
    )
    if isinstance(network, RefinedRPN):
        return replace(donor, refine=network.refine.state_dict())
    if isinstance(network, CascadeRPN):
        cascade = network.cascade
        return replace(donor, cascade=cascade.state_dict(), cascade_coder=cascade.coder)
    return donor


def of_detector(state: State, strides: Sequence[int], anchors: AnchorGrid | None = None) -> Donor:
    """torchvision's Faster R-CNN as a donor.

    Args:
        state: its state_dict.
        strides: of its feature maps, finest first.
        anchors: its own; None: those in the state_dict (`torchvision.state_with_anchors`), else torchvision's default.

    Raises:
        ValueError: no RPN in the state_dict, unknown anchors, or another number of them than it has kernels.
    """
    head = {name.removeprefix("rpn.head."): tensor for name, tensor in state.items() if name.startswith("rpn.head.")}
    if not {"cls_logits.weight", "bbox_pred.weight"} <= set(head):
        raise ValueError(
            "start holds no RPN of torchvision: give the state_dict of its whole Faster R-CNN, or a run of AnchorLab"
        )
    handed_over = any(name.startswith("backbone.backbone.") for name in state)  # by `to_torchvision`
    count, note = len(head["cls_logits.weight"]), ""
    anchors = anchors or _anchors_in(state, strides)
    if anchors is None:
        anchors = _default_anchors()
        note = "its file holds no anchors: torchvision's default is taken for them"
        if handed_over or set(anchors.num_anchors) != {count}:
            raise ValueError(
                f"start has {count} anchors per location, whose shapes its file does not hold: save "
                "anchorlab.trained.torchvision.state_with_anchors(model) in place of model.state_dict()"
            )
    if set(anchors.num_anchors) != {count}:
        raise ValueError(f"start has {count} anchors per location, and k={list(anchors.num_anchors)} are given")
    layers = {"scores": "cls_logits", "deltas": "bbox_pred"}
    kernels = {name: {kind: head[f"{layer}.{kind}"] for kind in ("weight", "bias")} for name, layer in layers.items()}
    # torchvision calls the whole backbone with its pyramid what is `body` to us.
    theirs, ours = ("backbone.backbone.", "") if handed_over else ("backbone.", "body.")
    return Donor(
        backbone={ours + name.removeprefix(theirs): t for name, t in state.items() if name.startswith(theirs)},
        convs=_convolutions_in(head),
        kernels={count: kernels},
        anchors=anchors,
        coder=DeltaCoder(state[FACTORS].tolist()) if FACTORS in state else DeltaCoder(),
        note=note,
    )


class Origin(NamedTuple):
    """Where the kernels of k anchors come from, one entry an anchor."""

    group: tuple[int, ...]  # theirs per location on the levels that share the kernel
    index: tuple[int, ...]  # among those
    stretch: tuple[tuple[float, float], ...]  # width and height of theirs over ours
    iou: tuple[float, ...]


def nearest(ours: AnchorGrid, theirs: AnchorGrid) -> dict[int, Origin]:
    """For each k of ours, whose levels share kernels: where they come from.

    Shapes are compared centre on centre, each level with that of theirs of the nearest stride, in strides; the mean
    over levels counts, as each kernel serves all of them.
    """
    return {k: _nearest_of(_levels_of(ours, k), ours, theirs) for k in dict.fromkeys(ours.num_anchors)}


def _nearest_of(levels: Sequence[int], ours: AnchorGrid, theirs: AnchorGrid) -> Origin:
    shapes = torch.stack([ours.shapes[level] / ours.strides[level] for level in levels])  # (levels, k, 2)
    groups, index, iou, stretch = [], [], [], []
    for m in dict.fromkeys(theirs.num_anchors):
        shared = _levels_of(theirs, m)
        others = torch.stack([_of_stride(theirs, ours.strides[level], shared) for level in levels])  # (levels, m, 2)
        groups += [m] * m
        index += range(m)
        iou.append(torch.stack([_centred_iou(a, b) for a, b in zip(shapes, others, strict=True)]).mean(0))
        stretch.append((others[:, None] / shapes[:, :, None]).log().mean(0).exp())  # (k, m, 2)
    overlap, sides = torch.cat(iou, dim=1), torch.cat(stretch, dim=1)
    best = overlap.argmax(dim=1).tolist()
    return Origin(
        tuple(groups[j] for j in best),
        tuple(index[j] for j in best),
        tuple((float(sides[i, j, 0]), float(sides[i, j, 1])) for i, j in enumerate(best)),
        tuple(float(overlap[i, j]) for i, j in enumerate(best)),
    )


def _check_cascades(network: RegionProposalNetwork, donor: Donor) -> None:
    has, wanted = bool(donor.cascade), isinstance(network, CascadeRPN)
    if has != wanted:
        raise ValueError(
            f"start has {'a' if has else 'no'} first stage that moves anchors: set cascade="
            f"{'two_stage' if has else 'none'}, or take its body alone, backbone.weights in place of start"
        )


def _copy_backbone(network: RegionProposalNetwork, given: State) -> int:
    wanted = network.backbone.state_dict()
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    wrong = [name for name in names if name not in given or given[name].shape != wanted[name].shape]
    if wrong:
        raise ValueError(
            f"start does not fit this backbone in {len(wrong)} of {len(names)} tensors ({', '.join(wrong[:3])}): "
            "choose the backbone that it was trained with, e.g. backbone=resnet50_fpn"
        )
    network.backbone.load_state_dict({name: given[name] for name in names}, strict=False)
    return len(names)


def _copy_convolutions(network: RegionProposalNetwork, theirs: Sequence[State]) -> None:
    ours = [layer for layer in network.head.conv if isinstance(layer, nn.Conv2d)]
    same = len(ours) == len(theirs) and all(
        state["weight"].shape == layer.weight.shape for layer, state in zip(ours, theirs, strict=True)
    )
    if not same:
        raise ValueError("start has other 3x3 convolutions in its RPN: set head.convs and head.channels as it has them")
    for layer, state in zip(ours, theirs, strict=True):
        layer.load_state_dict(dict(state))


def _copy_kernels(network: RegionProposalNetwork, k: int, origin: Origin, donor: Donor) -> None:
    head, coder = network.head, network.coder
    for kind in ("weight", "bias"):
        scores = _picked(donor, origin, "scores", kind)  # (k, 1 or 2, ...)
        getattr(head.scores[str(k)], kind).copy_(_as_scores(scores, head.objectness == "softmax").flatten(0, 1))
        deltas = _picked(donor, origin, "deltas", kind)  # (k, 4, ...)
        stretch = ((1.0, 1.0),) * k if donor.cascade else origin.stretch  # the head sees anchors that have moved
        ours = _in_our_terms(deltas, stretch, donor.coder, coder, kind == "bias")
        getattr(head.deltas[str(k)], kind).copy_(ours.flatten(0, 1))
        if head.quality is not None and all("quality" in kernels for kernels in donor.kernels.values()):
            getattr(head.quality[str(k)], kind).copy_(_picked(donor, origin, "quality", kind).flatten(0, 1))


def _copy_second_look(refine: SecondLook, given: State) -> bool:
    """Whether there was one of the same sizes; it knows no anchors, and is taken as it is."""
    wanted = refine.state_dict()
    if given.keys() != wanted.keys() or any(given[name].shape != wanted[name].shape for name in wanted):
        return False
    refine.load_state_dict(dict(given))
    return True


def _copy_cascade(cascade: AnchorRefinement, origin: Origin, donor: Donor) -> None:
    """The first stage, whose moves lead from our anchors to the same boxes; k is 1 on every level of both."""
    moves = {
        kind: _in_our_terms(
            donor.cascade[f"deltas.{kind}"][None],
            origin.stretch,
            donor.cascade_coder,
            cascade.coder,
            kind == "bias",
        )
        for kind in ("weight", "bias")
    }
    cascade.load_state_dict({**donor.cascade, **{f"deltas.{kind}": moved[0] for kind, moved in moves.items()}})


def _picked(donor: Donor, origin: Origin, output: str, kind: str) -> Tensor:
    """(k, channels of an anchor, ...) the donor's kernels or biases in the order of our anchors."""
    pairs = zip(origin.group, origin.index, strict=True)
    return torch.stack([donor.kernels[m][output][kind].unflatten(0, (m, -1))[j] for m, j in pairs])


def _as_scores(theirs: Tensor, softmax: bool) -> Tensor:
    """(k, 1 or 2, ...) -> two scores where `softmax`, else one: the logit is their difference, and stays the same."""
    if (theirs.shape[1] == 2) == softmax:
        return theirs
    return torch.cat((-theirs / 2, theirs / 2), dim=1) if softmax else theirs[:, 1:] - theirs[:, :1]


def _in_our_terms(
    theirs: Tensor,
    stretch: Sequence[tuple[float, float]],
    before: DeltaCoder,
    ours: DeltaCoder,
    is_bias: bool,
) -> Tensor:
    """(k, 4, ...) of the same boxes relative to our anchors, which are of another size, as our coder writes them."""
    parts = theirs.clone()
    for part, sides in zip(parts, stretch, strict=True):
        for i in range(4):
            old, new = before.weights[i], ours.weights[i]
            mean, times = before.means[i], sides[i] if i < 2 else 1.0  # x and y, of the centre
            part[i] *= new / old * times
            if is_bias:
                grown = 0.0 if i < 2 else math.log(sides[i - 2])
                part[i] += new * (mean * times + grown - ours.means[i])
    return parts


def _convolutions_in(head: State) -> Sequence[State]:
    """The 3x3 convolutions of torchvision's RPN; a single one is conv.weight in its older files."""
    old = [{kind: head[f"conv.{kind}"] for kind in ("weight", "bias")}] if "conv.weight" in head else []
    count = sum(name.startswith("conv.") and name.endswith(".0.weight") for name in head)
    return old or [{kind: head[f"conv.{i}.0.{kind}"] for kind in ("weight", "bias")} for i in range(count)]


def _anchors_in(state: State, strides: Sequence[int]) -> AnchorGrid | None:
    """Those that a detector's state_dict holds; None where it holds none."""
    count = sum(name.startswith(SHAPES) for name in state)
    if count not in (0, len(strides)):
        raise ValueError(f"start has anchors on {count} levels, and this backbone {len(strides)} feature maps")
    shapes = [state[f"{SHAPES}{level}"].tolist() for level in range(count)]
    return AnchorGrid(shapes=shapes, strides=strides) if shapes else None


def _default_anchors() -> AnchorGrid:
    return AnchorGrid(list(DEFAULT_SIZES), DEFAULT_RATIOS, rounded=True, order="ratio", strides=DEFAULT_STRIDES)


def _levels_of(anchors: AnchorGrid, k: int) -> list[int]:
    """The levels of k anchors per location, which share kernels."""
    return [level for level, count in enumerate(anchors.num_anchors) if count == k]


def _of_stride(anchors: AnchorGrid, stride: int, levels: Sequence[int]) -> Tensor:
    """Shapes (m, 2) in strides, of the level whose stride is nearest."""
    level = min(levels, key=lambda i: abs(math.log(anchors.strides[i] / stride)))
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
        moves = []
        for shape, m, j, iou in zip(ours.shapes[level].tolist(), origin.group, origin.index, origin.iou, strict=True):
            old = _of_stride(theirs, stride, _levels_of(theirs, m))[j] * stride
            moves.append(f"{_sides(shape)} from {_sides(old.tolist())} (IoU {iou:.2f})")
        parts.append(f"1x1 kernels of k = {k}, named at stride {stride}: {', '.join(moves)}")
    return "; ".join(parts)


def _sides(shape: Sequence[float]) -> str:
    return f"{shape[0]:.0f} x {shape[1]:.0f}"
