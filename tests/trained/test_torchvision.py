"""Networks handed to torchvision's detectors and back: the same proposals, and sentences for what cannot be."""

import copy
from dataclasses import replace
from typing import Any, Literal, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList

from anchorlab.build import build, build_network
from anchorlab.errors import SettingError
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner
from anchorlab.rpn.backbones.backbones import ResNetFPN, Tiny
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead
from anchorlab.rpn.losses.box import SmoothL1Loss
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.rpn.samplers import BalancedSampler
from anchorlab.trained.load import Trained, load_trained
from anchorlab.trained.start import nearest, start_with
from anchorlab.trained.torchvision import from_torchvision, state_with_anchors, to_torchvision

STRIDES = (4, 8, 16, 32, 64)
SIZES = [16, 32, 64, 128, 256]


def network_of(
    backbone: Any, anchors: AnchorGrid, objectness: Literal["softmax", "sigmoid"] = "softmax", **head: Any
) -> RegionProposalNetwork:
    return RegionProposalNetwork(
        backbone=backbone,
        anchors=anchors,
        head=RPNHead(objectness, in_channels=backbone.channels, num_anchors=anchors.num_anchors, **head),
        coder=DeltaCoder(),
        assigner=MaxIoUAssigner(),
        sampler=BalancedSampler(),
        loss=SmoothL1Loss(),
        proposals=ProposalSelector(pre_nms_top_n=200, post_nms_top_n=100),
    ).eval()


@torch.no_grad()
def their_proposals(model: FasterRCNN, images: Tensor, sizes: list[tuple[int, int]]) -> list[Tensor]:
    return model.rpn(ImageList(images, sizes), model.backbone(images))[0]


def wilder(head: Any) -> None:
    """Weights of 0.01 give almost the same logit everywhere: larger ones tell anchors apart."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.05)


@pytest.fixture(scope="module")
def trained(run) -> Trained:
    found = load_trained(run)
    wilder(found.network.head)
    return found


@pytest.fixture(scope="module")
def batch(trained) -> Any:
    data: Any = build(trained.config["data"], augment=None, seed=0)
    return next(iter(data.val_dataloader()))


@pytest.fixture(scope="module")
def theirs() -> FasterRCNN:
    """torchvision's own, random weights, 15 anchors of which each of five levels has three."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    model = FasterRCNN(backbone, 2, rpn_pre_nms_top_n_test=200, rpn_post_nms_top_n_test=100).eval()
    wilder(model.rpn.head)
    return model


def test_proposals_of_the_handed_over_network_are_ours(trained, batch):
    model = to_torchvision(trained, num_classes=4)
    sizes = [(int(height), int(width)) for height, width in batch.sizes.tolist()]
    images = trained.network.prepare(batch.images, batch.sizes)
    ours = trained.network.propose(trained.network(images), sizes)
    for mine, yours in zip(ours, their_proposals(model, images, sizes), strict=True):
        assert len(mine.boxes) > 20
        torch.testing.assert_close(yours, mine.boxes, rtol=1e-5, atol=1e-3)


def test_its_transform_gives_the_same_input_for_images_of_the_size_trained_with(trained, batch):
    model = to_torchvision(trained)
    height, width = batch.sizes[0].tolist()
    image = batch.images[0, :, :height, :width]
    prepared, _ = model.transform([image / 255])
    torch.testing.assert_close(prepared.tensors, trained.network.prepare(image[None], batch.sizes[:1]))


def test_it_trains_in_torchvision_s_own_loop(trained, batch):
    model = to_torchvision(trained, num_classes=3).train()
    boxes = torch.tensor([[5.0, 5.0, 50.0, 40.0]])
    losses = model([batch.images[0] / 255], [{"boxes": boxes, "labels": torch.tensor([1])}])
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    torch.stack(list(losses.values())).sum().backward()
    gradient = cast(Any, model.rpn.head).cls_logits.weight.grad
    assert gradient.abs().sum() > 0


class OtherCoder(DeltaCoder):
    pass


@pytest.mark.parametrize(
    ("anchors", "head", "coder", "sentence"),
    [
        (AnchorGrid([[16, 20], [32], [64]], strides=(8, 16, 32)), {}, DeltaCoder(), "one k for all levels"),
        (AnchorGrid([16, 32, 64], strides=(8, 16, 32)), {"channels": 48}, DeltaCoder(), "head.channels=48"),
        (AnchorGrid([16, 32, 64], strides=(8, 16, 32)), {}, OtherCoder(), "cannot express coder OtherCoder"),
    ],
)
def test_what_torchvision_cannot_express_is_refused_in_one_sentence(anchors, head, coder, sentence, trained):
    network = network_of(Tiny(32), anchors, **head)
    network.coder = coder
    with pytest.raises(SettingError, match=sentence) as error:
        to_torchvision(replace(trained, network=network))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("objectness", ["sigmoid", "softmax"])
def test_torchvision_s_detector_gives_the_same_proposals_as_a_network_of_ours(objectness, theirs):
    anchors = AnchorGrid([32, 64, 128, 256, 512], rounded=True, order="ratio", stride="inferred", strides=STRIDES)
    network, line = from_torchvision(theirs, network_of(ResNetFPN("resnet18", "none"), anchors, objectness))
    images, sizes = torch.rand(2, 3, 128, 192), [(128, 192), (100, 150)]
    images[1, :, 100:], images[1, :, :, 150:] = 0, 0
    with torch.no_grad():
        ours = network.propose(network(images), sizes)
    for mine, yours in zip(ours, their_proposals(theirs, images, sizes), strict=True):
        assert len(yours) > 20
        torch.testing.assert_close(mine.boxes, yours, rtol=1e-4, atol=1e-3)
    assert line.count("IoU 1.00") == 3


def test_anchors_of_other_number_and_shape_start_with_the_boxes_of_the_nearest(theirs):
    """Kernels are told in our terms: each of ours predicts the boxes and logits of the anchor it comes from."""
    old = AnchorGrid(SIZES, strides=STRIDES)
    anchors = AnchorGrid([20, 40, 80, 160, 320], [0.4, 0.9, 2.5, 3.0], strides=STRIDES)
    network, line = from_torchvision(theirs.state_dict(), network_of(ResNetFPN("resnet18", "none"), anchors), old)
    origin = nearest(anchors, old)[4]
    assert origin.index == (0, 1, 2, 2)
    for words in ("k = 4, named at stride 4", "21 x 19 from 16 x 16", "IoU"):
        assert words in line
    features = [torch.randn(1, 256, 3, 2)]
    with torch.no_grad():
        logits, deltas = theirs.rpn.head(features)
        hidden = network.head.conv(features[0])
        our_logits = network.head.logits(network.head.scores["4"](hidden))
        our_deltas = network.head.deltas["4"](hidden)
    torch.testing.assert_close(our_logits, logits[0][:, list(origin.index)])
    place = torch.tensor([40.0, 24.0, 40.0, 24.0])
    for level in (0, 3):
        for j, i in enumerate(origin.index):
            new, before = (torch.cat((-s / 2, s / 2)) for s in (anchors.shapes[level][j], old.shapes[level][i]))
            ours = network.coder.decode(place + new, our_deltas[0, 4 * j : 4 * j + 4].permute(1, 2, 0))
            wanted = network.coder.decode(place + before, deltas[0][0, 4 * i : 4 * i + 4].permute(1, 2, 0))
            torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (lambda: network_of(Tiny(32), AnchorGrid([16, 32, 64], strides=(8, 16, 32))), "does not fit this backbone"),
        (
            lambda: network_of(ResNetFPN("resnet18", "none"), AnchorGrid(SIZES, strides=STRIDES), channels=64),
            "other 3x3 convolutions",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(network, sentence, theirs, tmp_path):
    path = tmp_path / "fasterrcnn.pth"
    torch.save(theirs.state_dict(), path)
    with pytest.raises(SettingError, match=sentence):
        start_with(network(), str(path))


def test_anchors_of_a_file_are_the_detector_s_own_or_said_to_be_assumed(theirs, tmp_path):
    """Three anchors of other sizes than torchvision's default: nothing but the file can tell."""
    small = AnchorGenerator(tuple((size,) for size in (8, 16, 32, 64, 128)), ((0.5, 1.0, 2.0),) * 5)
    model = FasterRCNN(theirs.backbone, 2, rpn_anchor_generator=small)
    network = network_of(ResNetFPN("resnet18", "none"), AnchorGrid([8, 16, 32, 64, 128], rounded=True, strides=STRIDES))
    for suffix, save in (("pth", torch.save), ("safetensors", save_file)):
        path = tmp_path / f"detector.{suffix}"
        save({name: tensor.contiguous() for name, tensor in state_with_anchors(model).items()}, path)
        line = start_with(network, str(path))
        assert line.count("IoU 1.00") == 3
        assert "default" not in line
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    line = start_with(network, str(tmp_path / "bare.pth"))
    assert "IoU 0.06" in line
    assert "holds no anchors: torchvision's default is taken" in line


def test_a_file_whose_anchors_cannot_be_the_default_is_refused(theirs, trained, tmp_path):
    many = AnchorGenerator(((32, 64, 128),) * 5, ((0.5, 1.0, 2.0),) * 5)
    network = network_of(ResNetFPN("resnet18", "none"), AnchorGrid(SIZES, strides=STRIDES))
    for model in (FasterRCNN(theirs.backbone, 2, rpn_anchor_generator=many), to_torchvision(trained)):
        torch.save(model.state_dict(), tmp_path / "bare.pth")
        with pytest.raises(SettingError, match=r"whose shapes its file does not hold: save .*state_with_anchors"):
            start_with(network, str(tmp_path / "bare.pth"))


def test_a_network_that_was_handed_over_comes_back(trained, tmp_path):
    """With its anchors and its coder's factors, from a file."""
    there = copy.deepcopy(trained.network)
    there.coder = DeltaCoder((2, 2, 1, 1))
    save_file(state_with_anchors(to_torchvision(replace(trained, network=there))), tmp_path / "detector.safetensors")
    network = build_network({**trained.config, "backbone": {**trained.config["backbone"]}}).eval()
    assert start_with(network, str(tmp_path / "detector.safetensors")).count("IoU 1.00") == 3
    images = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        ours, theirs = (net.propose(net(images), [(96, 96)])[0] for net in (network, there))
    torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-4, atol=1e-3)
