"""The presets: torchvision's against the installed one, Detectron2's and the paper's against worked values.

From the network's input tensor on, with copied weights. B images | A anchors of one image
"""

import copy
import math
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN
from torchvision.models.detection.rpn import RPNHead as TorchvisionHead
from torchvision.models.detection.rpn import concat_box_prediction_layers

from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import OBJECT, MaxIoUAssigner
from anchorlab.rpn.backbones.backbones import VGG16, Backbone, ResNetFPN
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead
from anchorlab.rpn.losses.box import L1Loss, RPNLoss, SmoothL1Loss
from anchorlab.rpn.network import Predictions, RegionProposalNetwork
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.rpn.samplers import BalancedSampler, Overlap, Sampled

SIZES = [(150, 203), (118, 170)]  # neither side a multiple of any stride; the second image is padded
BOXES = [
    torch.tensor([[10.0, 12.0, 75.0, 80.0], [60.0, 40.0, 190.0, 149.0], [100.0, 3.0, 121.0, 40.0]]),
    torch.tensor([[5.0, 5.0, 45.0, 110.0], [5.0, 5.0, 45.0, 110.0], [140.3, 90.7, 169.9, 117.2]]),
]
NO_IGNORED = [torch.zeros(3, dtype=torch.bool)] * 2


class OneLevel(Backbone):
    """A map of stride 16 and 12 channels: what both sides see on a single level."""

    channels, strides = 12, (16,)

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(c, 12, 3, stride=2, padding=1) for c in (3, 12, 12, 12)]
        self.body = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.body(images)]


class GivenSample(BalancedSampler):
    """Hands out, image after image, the sample that torchvision drew."""

    def __init__(self, masks: tuple[list[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.samples = [Sampled(p.nonzero()[:, 0], n.nonzero()[:, 0]) for p, n in zip(*masks, strict=True)]

    def __call__(self, label: Tensor, generator: torch.Generator, overlap: Overlap | None = None) -> Sampled:
        return self.samples.pop(0)


@dataclass
class Pair:
    """Our network and torchvision's with the same weights, and what they make of the same images."""

    ours: RegionProposalNetwork
    theirs: TorchvisionRPN
    images: ImageList
    predictions: Predictions
    features: dict[str, Tensor]

    @property
    def their_anchors(self) -> list[Tensor]:
        return self.theirs.anchor_generator(self.images, list(self.features.values()))

    @property
    def their_predictions(self) -> tuple[Tensor, Tensor]:
        """Logits (B * A, 1) and deltas (B * A, 4)."""
        return concat_box_prediction_layers(*self.theirs.head(list(self.features.values())))


@pytest.fixture(scope="module", params=["one level", "pyramid"])
def pair(request: pytest.FixtureRequest) -> Pair:
    torch.manual_seed(0)
    if request.param == "pyramid":
        backbone, sizes = ResNetFPN("resnet18", "none", frozen_stages=0), [[16], [32], [64], [128], [256]]
        reference = resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
        )
        reference.load_state_dict(backbone.body.state_dict())
    else:
        backbone, sizes = OneLevel(), [[32, 64, 128]]
        reference = copy.deepcopy(backbone.body)
    ours = torchvision_preset(backbone, sizes)
    theirs = TorchvisionRPN(
        AnchorGenerator(tuple(map(tuple, sizes)), ((0.5, 1.0, 2.0),) * len(sizes)),
        torchvision_head(ours.head),
        0.7,
        0.3,
        64,
        0.5,
        *({"training": n, "testing": n} for n in (300, 100)),
        nms_thresh=0.7,
    )
    images = torch.randn(2, 3, 150, 203)
    images[1, :, 118:], images[1, :, :, 170:] = 0, 0
    maps = reference.eval()(images)
    features = maps if isinstance(maps, dict) else {"0": maps}
    return Pair(ours.eval(), theirs.eval(), ImageList(images, SIZES), ours.eval()(images), features)


def torchvision_preset(backbone: Backbone, sizes: list[list[int]]) -> RegionProposalNetwork:
    anchors = AnchorGrid(sizes, rounded=True, order="ratio", stride="inferred", strides=backbone.strides)
    head = RPNHead("sigmoid", in_channels=backbone.channels, num_anchors=anchors.num_anchors)
    for parameter in head.parameters():  # as at the start all deltas would be nearly 0
        nn.init.normal_(parameter, std=0.05)
    assigner = MaxIoUAssigner(low_quality_floor=None, ignore_iof=None)
    loss, proposals = SmoothL1Loss(), ProposalSelector(300, 100, min_size=1e-3)
    return RegionProposalNetwork(backbone, anchors, head, DeltaCoder(), assigner, BalancedSampler(), loss, proposals)


def torchvision_head(head: RPNHead) -> TorchvisionHead:
    (k,) = set(head.num_anchors)
    theirs = TorchvisionHead(head.in_channels, k)
    names = {"conv.0": "conv.0.0", f"scores.{k}": "cls_logits", f"deltas.{k}": "bbox_pred"}
    for ours, other in names.items():
        theirs.get_submodule(other).load_state_dict(head.get_submodule(ours).state_dict())
    return theirs


def test_feature_maps_are_the_same(pair: Pair) -> None:
    for ours, theirs in zip(pair.ours.backbone(pair.images.tensors), pair.features.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_anchors(pair: Pair) -> None:
    for theirs in pair.their_anchors:
        assert torch.equal(pair.predictions.anchors.boxes, theirs)


def test_labels_and_matched_boxes(pair: Pair) -> None:
    labels, matched = pair.theirs.assign_targets_to_anchors(pair.their_anchors, [{"boxes": b} for b in BOXES])
    for boxes, size, their_label, their_boxes in zip(BOXES, SIZES, labels, matched, strict=True):
        ours = pair.ours.assigner(pair.predictions.anchors, boxes, NO_IGNORED[0], size)
        assert torch.equal(ours.label.float(), their_label)
        positive = ours.label == OBJECT
        assert positive.any()
        assert torch.equal(boxes[ours.box_index[positive]], their_boxes[positive])


def test_logits_and_deltas(pair: Pair) -> None:
    logits, deltas = pair.their_predictions
    torch.testing.assert_close(pair.predictions.logits.flatten(), logits[:, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pair.predictions.deltas.flatten(0, 1), deltas, rtol=1e-5, atol=1e-6)


def test_losses_and_gradients_of_the_same_sample(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[tuple[list[Tensor], list[Tensor]]] = []
    draw = pair.theirs.fg_bg_sampler

    def remember(labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        masks.append(draw(labels))
        return masks[-1]

    monkeypatch.setattr(pair.theirs, "fg_bg_sampler", remember)
    monkeypatch.setattr(pair.theirs, "training", True)
    _, theirs = pair.theirs(pair.images, pair.features, [{"boxes": boxes} for boxes in BOXES])
    monkeypatch.setattr(pair.ours, "sampler", GivenSample(masks[0]))
    ours = pair.ours.loss(pair.predictions, BOXES, NO_IGNORED, SIZES, [torch.Generator()] * 2)
    torch.testing.assert_close(ours.objectness, theirs["loss_objectness"], rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.box, theirs["loss_rpn_box_reg"], rtol=1e-5, atol=0)
    assert (ours.num_positives + ours.num_negatives).tolist() == [64, 64]
    their_total = theirs["loss_objectness"] + theirs["loss_rpn_box_reg"]
    their_gradients = torch.autograd.grad(their_total, list(pair.theirs.head.parameters()), retain_graph=True)
    our_gradients = torch.autograd.grad(ours.total, list(pair.ours.head.parameters()), retain_graph=True)
    for our_gradient, their_gradient in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-4, atol=1e-6)


def test_proposals_and_scores(pair: Pair) -> None:
    logits, deltas = pair.their_predictions
    decoded = pair.theirs.box_coder.decode(deltas, pair.their_anchors).view(2, -1, 4)
    num_per_level = list(pair.predictions.anchors.num_per_level)
    theirs = pair.theirs.filter_proposals(decoded, logits, SIZES, num_per_level)
    for ours, boxes, scores in zip(pair.ours.propose(pair.predictions, SIZES), *theirs, strict=True):
        assert len(ours.boxes) == 100
        torch.testing.assert_close(ours.boxes, boxes, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(ours.scores, scores, rtol=1e-5, atol=0)


def test_autocast_leaves_boxes_and_losses_in_float32(pair: Pair) -> None:
    """torchvision builds its anchors in the features' dtype: under bfloat16 they are up to 7 pixels off."""
    with torch.autocast("cpu", torch.bfloat16):
        predictions = pair.ours(pair.images.tensors)
        losses = pair.ours.loss(predictions, BOXES, NO_IGNORED, SIZES, [torch.Generator()] * 2)
        proposals = pair.ours.propose(predictions, SIZES)
        targets = pair.ours.targets(predictions.anchors, BOXES[0], NO_IGNORED[0], SIZES[0], torch.Generator())
    full = pair.ours.targets(pair.predictions.anchors, BOXES[0], NO_IGNORED[0], SIZES[0], torch.Generator())
    assert predictions.levels[0].deltas.dtype == torch.bfloat16  # so autocast was at work
    assert {losses.objectness.dtype, losses.box.dtype, proposals[0].boxes.dtype} == {torch.float32}
    assert torch.equal(predictions.anchors.boxes, pair.predictions.anchors.boxes)
    assert torch.equal(targets.deltas, full.deltas)


class Silent(Backbone):
    """Maps of zeros: with fresh biases every logit and delta is 0, and losses can be worked out by hand."""

    channels = 1

    def __init__(self, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        return [images.new_zeros(len(images), 1, math.ceil(height / s), math.ceil(width / s)) for s in self.strides]


def silent_network(
    backbone: Backbone,
    anchors: AnchorGrid,
    objectness: Literal["softmax", "sigmoid"],
    assigner: MaxIoUAssigner,
    loss: RPNLoss,
) -> RegionProposalNetwork:
    head = RPNHead(objectness, in_channels=backbone.channels, num_anchors=anchors.num_anchors)
    parts = (DeltaCoder(), assigner, BalancedSampler(), loss, ProposalSelector())
    return RegionProposalNetwork(backbone, anchors, head, *parts)


def test_detectron2_anchors() -> None:
    """DefaultAnchorGenerator: area = size^2, width = sqrt(area / ratio), height = ratio * width."""
    anchors = AnchorGrid([32], strides=(16,))([(2, 3)], (32, 48), "cpu").boxes
    cell = torch.tensor(
        [
            [-22.627417, -11.313708, 22.627417, 11.313708],
            [-16.0, -16.0, 16.0, 16.0],
            [-11.313708, -22.627417, 11.313708, 22.627417],
        ]
    )
    torch.testing.assert_close(anchors[:3], cell)  # offset 0: the first location is the image's corner
    torch.testing.assert_close(anchors[3:6], cell + torch.tensor([16.0, 0, 16, 0]))
    torch.testing.assert_close(anchors[9:12], cell + torch.tensor([0, 16.0, 0, 16]))
    two_sizes = AnchorGrid([[32, 64]], strides=(16,)).shapes[0]
    torch.testing.assert_close(two_sizes.prod(dim=1).sqrt(), torch.tensor([32.0, 32, 32, 64, 64, 64]))


def test_detectron2_losses() -> None:
    """L1 and cross-entropy summed over the sampled anchors, both / (256 x images)."""
    backbone = Silent(strides=(32,))
    anchors = AnchorGrid([32], ratios=[1.0], offset=0.5, strides=backbone.strides)
    network = silent_network(backbone, anchors, "sigmoid", MaxIoUAssigner(), L1Loss("budget"))
    # The anchors tile each image as four squares of 32. The box is the first of them moved by (8, 4): IoU
    # 24 * 28 / (2 * 1024 - 24 * 28) = 0.49, positive as the box's best; the three others are below 0.3.
    boxes = [torch.tensor([[8.0, 4.0, 40.0, 36.0]]), torch.zeros(0, 4)]
    ignore = [torch.zeros(1, dtype=torch.bool), torch.zeros(0, dtype=torch.bool)]
    predictions = network(torch.zeros(2, 3, 64, 64))
    losses = network.loss(predictions, boxes, ignore, [(64, 64), (64, 64)], [torch.Generator()] * 2)
    assert losses.num_positives.tolist() == [1, 0]
    assert losses.num_negatives.tolist() == [3, 4]
    assert losses.objectness.item() == pytest.approx(8 * math.log(2) / 512)
    assert losses.box.item() == pytest.approx((8 / 32 + 4 / 32) / 512)


def test_paper_losses() -> None:
    """Equation 1: objectness over the sampled, 10 x the box loss over the locations; softmax, k=9."""
    backbone = Silent(strides=(16,))
    anchors = AnchorGrid([128, 256, 512], offset=0.5, strides=backbone.strides)
    loss = SmoothL1Loss(beta=1.0, divisor="locations", box_weight=10)
    network = silent_network(backbone, anchors, "softmax", MaxIoUAssigner(border=0), loss)
    predictions = network(torch.zeros(1, 3, 600, 1000))
    # A square of 128 half-way between two anchors of that shape, at (328, 200) and (344, 200): IoU with both
    # is 120 / 136 = 0.88; those a row or a column further have 0.695 and 0.684, other shapes less.
    box = torch.tensor([[336.0 - 64, 200.0 - 64, 336.0 + 64, 200.0 + 64]])
    ignore = torch.zeros(1, dtype=torch.bool)
    losses = network.loss(predictions, [box], [ignore], [(600, 1000)], [torch.Generator()])
    assert losses.num_positives.tolist() == [2]
    assert losses.num_negatives.tolist() == [254]
    assert losses.objectness.item() == pytest.approx(math.log(2))
    assert losses.box.item() == pytest.approx(10 * 2 * (0.5 * (8 / 128) ** 2) / (38 * 63))


def test_paper_leaves_out_anchors_across_the_border() -> None:
    """Section 3.1.3: a 1000x600 image has roughly 20,000 anchors (60 x 40 x 9), and most cross the border."""
    anchors = AnchorGrid([128, 256, 512], offset=0.5, strides=(16,))([(40, 60)], (600, 1000), "cpu")
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)
    label = MaxIoUAssigner(border=0)(anchors, *nothing, (600, 1000)).label
    assert len(label) == 21_600
    assert (label >= 0).sum() < len(label) / 2
    # Squares of 128 lie inside where 64 <= 8 + 16 column <= 936 and 64 <= 8 + 16 row <= 536.
    assert (label.view(-1, 9)[:, 1] >= 0).sum() == 55 * 30


def test_paper_on_vgg16() -> None:
    """An image of 224x224 is 14x14x512 to the head, which gives 2k scores and 4k deltas at each location."""
    backbone = VGG16("none")
    anchors = AnchorGrid([128, 256, 512], strides=backbone.strides)
    head = RPNHead("softmax", in_channels=backbone.channels, num_anchors=anchors.num_anchors)
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 224, 224))
        ((scores, deltas, _),) = head(features)
    assert features[0].shape == (1, 512, 14, 14)
    assert scores.shape == (1, 2 * 9, 14, 14)
    assert deltas.shape == (1, 4 * 9, 14, 14)
