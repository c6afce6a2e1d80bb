"""Our networks as torchvision's, and torchvision's as ours; what one of them cannot express is refused.

    model = to_torchvision("outputs/2026-11-22/10-00-00", num_classes=4)  # a FasterRCNN, for torchvision's training
    network, line = from_torchvision(model, network)  # its weights as a start, with the same anchors or others

A torchvision detector resizes and normalises by itself: give it images (3, H, W) in 0..1.
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead as TorchvisionHead
from torchvision.ops import MultiScaleRoIAlign

from anchorlab.errors import SettingError
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner
from anchorlab.rpn.backbones.backbones import Backbone
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.rpn.samplers import BalancedSampler
from anchorlab.trained.load import Trained, load_trained
from anchorlab.trained.plain import require_plain
from anchorlab.trained.start import FACTORS, SHAPES, of_detector, start_from

COARSEST_POOLED = 32
"""The stride up to which torchvision's detectors pool their second stage's features."""


def to_torchvision(
    run: str | Path | Trained, num_classes: int = 2, selector: ProposalSelector | None = None, **detector: Any
) -> FasterRCNN:
    """A FasterRCNN whose first stage is the trained network: its proposals (`model.rpn`) are equal from the input on.

    Backbone, anchors, head, coder, top-k and NMS are the network's, thresholds and budgets of its training too where
    torchvision has them. The second stage begins at random.

    Args:
        run: a run's folder, a checkpoint, an exported model, or what `load_trained` gave.
        num_classes: with the background.
        selector: plain NMS in place of the network's own, where that is none; recall is then another.
        detector: any argument of torchvision's FasterRCNN instead.

    Raises:
        SettingError: no such network, or one that torchvision's RPN cannot express; one sentence which part.
    """
    trained = run if isinstance(run, Trained) else load_trained(run)
    network = trained.network
    if selector is not None:
        selector.check_levels(len(network.backbone.strides))
        network = copy.copy(network)
        network.selector = selector
    require_plain(
        network, "torchvision's RPN", instead="; selector=ProposalSelector() replaces it, and recall is then another"
    )
    parts = {"rpn_anchor_generator": GridAnchors(network.anchors), "rpn_head": _head(network)}
    settings = {**_detector_settings(trained, network), **parts, **detector}
    pooled = [str(i) for i, stride in enumerate(network.backbone.strides) if stride <= COARSEST_POOLED] or ["0"]
    settings.setdefault("box_roi_pool", MultiScaleRoIAlign(pooled, output_size=7, sampling_ratio=2))
    if "box_predictor" not in detector:
        settings["num_classes"] = num_classes
    model = FasterRCNN(Features(network.backbone), **settings)
    coder, selector = network.coder, network.selector
    clip = math.inf if coder.clip is None else coder.clip
    rpn: Any = model.rpn
    rpn.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0), clip)  # the head has the coder's weights and means
    rpn.min_size = max(selector.min_size, torch.finfo(torch.float32).tiny)  # empty boxes always go
    return model.eval()


def from_torchvision(
    source: nn.Module | dict[str, Tensor], network: RegionProposalNetwork, anchors: AnchorGrid | None = None
) -> tuple[RegionProposalNetwork, str]:
    """`network` with the weights of torchvision's Faster R-CNN, and one line that says which kernel came from where.

    Args:
        source: the model, whose anchors are read, or its state_dict.
        network: of the same backbone; its k, sizes and ratios may be others. It is changed, and given back.
        anchors: those of the model; None: the model's own, or, of a state_dict without them, torchvision's default.

    Raises:
        ValueError: another backbone, other 3x3 convolutions, unknown anchors.
    """
    if isinstance(source, nn.Module):
        source = state_with_anchors(source)
    return network, start_from(network, of_detector(source, network.backbone.strides, anchors))


def state_with_anchors(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict of a torchvision detector, with its anchors and its coder's factors: what `start` wants to know.

    torch.save(state_with_anchors(model), "detector.pth")  # then: train.py start=detector.pth
    """
    rpn = cast(Any, model).rpn
    shapes = [cell[:, 2:] - cell[:, :2] for cell in rpn.anchor_generator.cell_anchors]
    anchors = {f"{SHAPES}{level}": shape.contiguous().float() for level, shape in enumerate(shapes)}
    return {**model.state_dict(), **anchors, FACTORS: torch.tensor(rpn.box_coder.weights, dtype=torch.float32)}


class Features(nn.Module):
    """One of our backbones as torchvision wants it: maps by name, "0" the finest, of `out_channels` each."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = backbone.channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict((str(level), feature) for level, feature in enumerate(self.backbone(images)))


class GridAnchors(AnchorGenerator):
    """Our anchors as torchvision's generator: any shapes, unrounded, offset, with declared strides."""

    def __init__(self, grid: AnchorGrid) -> None:
        super().__init__(tuple((1,) * k for k in grid.num_anchors), ((1.0,),) * len(grid.num_anchors))
        self.grid = grid
        self.cell_anchors = [torch.cat((-shape / 2, shape / 2), dim=1) for shape in grid.shapes]

    def num_anchors_per_location(self) -> list[int]:
        return list(self.grid.num_anchors)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        grids = [(feature.shape[-2], feature.shape[-1]) for feature in feature_maps]
        height, width = image_list.tensors.shape[-2:]
        boxes = self.grid(grids, (height, width), feature_maps[0].device).boxes
        return [boxes for _ in image_list.image_sizes]


def _head(network: RegionProposalNetwork) -> TorchvisionHead:
    """The head with k scores; of 2k softmax scores the differences, which mean the same."""
    ours = network.head
    k, convs = ours.num_anchors[0], [layer for layer in ours.conv if isinstance(layer, nn.Conv2d)]
    if len(set(ours.num_anchors)) > 1:
        raise SettingError(
            f"torchvision's RPN has one k for all levels, and this network k = {list(ours.num_anchors)}: "
            "train one with the same k on every level"
        )
    if {conv.out_channels for conv in convs} != {ours.in_channels}:
        raise SettingError(
            f"torchvision's RPN has as many channels as its backbone, {ours.in_channels}, and this one has "
            f"head.channels={convs[0].out_channels}: train one with head.channels=null"
        )
    head = TorchvisionHead(ours.in_channels, k, conv_depth=len(convs))
    scores, deltas = (cast(nn.Conv2d, part[str(k)]) for part in (ours.scores, ours.deltas))
    folded = {"weight": scores.weight.detach(), "bias": cast(Tensor, scores.bias).detach()}
    if ours.objectness == "softmax":
        folded = {kind: tensor[1::2] - tensor[0::2] for kind, tensor in folded.items()}
    state = {f"cls_logits.{kind}": tensor for kind, tensor in folded.items()}
    weight, bias = network.coder.plain_layer(deltas.weight.detach(), cast(Tensor, deltas.bias).detach())
    state |= {"bbox_pred.weight": weight, "bbox_pred.bias": bias}
    for i, conv in enumerate(convs):
        state |= {f"conv.{i}.0.{kind}": tensor for kind, tensor in conv.state_dict().items()}
    head.load_state_dict(state)
    return head


def _detector_settings(trained: Trained, network: RegionProposalNetwork) -> dict[str, Any]:
    """FasterRCNN's arguments that the run fixes; in training torchvision keeps at least 2,000 proposals, as it does."""
    short, long = trained.resize
    selector, assigner, sampler = network.selector, network.assigner, network.sampler
    before, after, nms_iou = selector.pre_nms_top_n, selector.post_nms_top_n, selector.nms_iou
    if isinstance(before, Sequence) or isinstance(nms_iou, Sequence):
        raise SettingError("torchvision takes one pre_nms_top_n and one nms_iou for all levels: train with one of each")
    settings: dict[str, Any] = {
        # Its rule takes the smaller of two scales: one number for both leaves the long side to rule.
        "min_size": short or long,
        "max_size": long or 1 << 20,
        "size_divisible": trained.pad_to,
        "image_mean": list(network.backbone.mean),
        "image_std": list(network.backbone.std),
        "rpn_pre_nms_top_n_test": before,
        "rpn_post_nms_top_n_test": after,
        "rpn_pre_nms_top_n_train": max(before, 2000),
        "rpn_post_nms_top_n_train": max(after, 2000),
        "rpn_nms_thresh": nms_iou,
        "rpn_score_thresh": selector.score_threshold,
    }
    if isinstance(assigner, MaxIoUAssigner):
        settings |= {"rpn_fg_iou_thresh": assigner.foreground_iou, "rpn_bg_iou_thresh": assigner.background_iou}
    if type(sampler) is BalancedSampler:
        settings |= {"rpn_batch_size_per_image": sampler.num, "rpn_positive_fraction": sampler.positive_fraction}
    return settings
