"""What must hold on any device: `ANCHORLAB_DEVICE=cuda pytest tests/test_device.py` asks a GPU, else it is the CPU."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN

from anchorlab.metrics.recall import ProposalRecall
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.runs.metrics import read_metrics
from tests.rpn.test_parity import BOXES, NO_IGNORED, SIZES, OneLevel, torchvision_head, torchvision_preset
from tests.training.conftest import small, train

__all__ = ["small", "train"]

DEVICE = torch.device(os.environ.get("ANCHORLAB_DEVICE", "cpu"))


@pytest.fixture(scope="module")
def network() -> RegionProposalNetwork:
    torch.manual_seed(0)
    return torchvision_preset(OneLevel(), [[32, 64, 128]]).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 150, 203, generator=torch.Generator().manual_seed(1))


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in range(2)]


def on_device(values: list[Tensor]) -> list[Tensor]:
    return [value.to(DEVICE) for value in values]


def test_proposals_are_torchvision_s(network, images):
    before, after = ({"training": n, "testing": n} for n in (300, 100))
    generator = AnchorGenerator(((32, 64, 128),), ((0.5, 1.0, 2.0),))
    theirs = TorchvisionRPN(generator, torchvision_head(network.head), 0.7, 0.3, 64, 0.5, before, after, 0.7)
    theirs = theirs.to(DEVICE).eval()
    ours = network.to(DEVICE)
    with torch.no_grad():
        found = ours.propose(ours(images.to(DEVICE)), SIZES)
        features = {"0": ours.backbone(images.to(DEVICE))[0]}
        boxes, _ = theirs(ImageList(images.to(DEVICE), SIZES), features)
    for proposals, other in zip(found, boxes, strict=True):
        assert proposals.boxes.device.type == DEVICE.type
        torch.testing.assert_close(proposals.boxes, other, rtol=1e-4, atol=1e-2)


def test_sampled_step_has_the_loss_and_gradients_of_whole_maps(network, images):
    ours = network.to(DEVICE)
    losses, gradients = [], []
    for predict in (ours.pending, ours):
        ours.zero_grad()
        loss = ours.loss(predict(images.to(DEVICE)), on_device(BOXES), on_device(NO_IGNORED), SIZES, generators()).total
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad.clone() for p in ours.parameters() if p.grad is not None])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-6)
    for sampled, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(sampled, whole, rtol=1e-3, atol=1e-4)


def test_boxes_are_float32_under_bf16(network, images):
    ours = network.to(DEVICE)
    with torch.no_grad(), torch.autocast(DEVICE.type, torch.bfloat16):
        predictions = ours(images.to(DEVICE))
        (first, _) = ours.propose(predictions, SIZES)
        assert ours.backbone(images.to(DEVICE))[0].dtype == torch.bfloat16
    exact = ours.anchors([(10, 13)], (150, 203), "cpu").boxes
    assert torch.equal(predictions.anchors.boxes.cpu(), exact)
    assert first.boxes.dtype == torch.float32
    assert not torch.equal(first.boxes, first.boxes.bfloat16().float())  # no step on the way rounded them


def test_recall_of_the_same_proposals_is_that_of_the_cpu(network, images):
    ours = network.to(DEVICE)
    with torch.no_grad():
        found = ours.propose(ours(images.to(DEVICE)), SIZES)
    here, there = ProposalRecall(), ProposalRecall()
    for row, (proposals, truth) in enumerate(zip(found, BOXES, strict=True)):
        truth = truth.double()
        area = (truth[:, 2] - truth[:, 0]) * (truth[:, 3] - truth[:, 1])
        target = (truth, area, torch.zeros(len(truth), dtype=torch.bool), torch.zeros(len(truth), dtype=torch.bool))
        there.update(row, proposals.boxes.detach().cpu().double(), proposals.scores, *target)
        here.update(row, proposals.boxes.detach().cpu().double(), proposals.scores.cpu(), *target)
    assert here.compute() == there.compute()


@pytest.mark.skipif("ANCHORLAB_DEVICE" not in os.environ, reason="tests/training resumes on the CPU")
def test_resumed_run_ends_where_one_without_a_break_does(small, train, tmp_path):
    chosen = (*small, f"trainer.accelerator={'gpu' if DEVICE.type == 'cuda' else 'cpu'}", "trainer.precision=32")
    whole = train(*chosen, "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    for arguments in (("callbacks.stop_after.epochs=1", "hydra.run.dir=parts"), ("resume=parts",)):
        part = train(*(chosen if arguments[0] != "resume=parts" else ()), *arguments)
        assert part.returncode == 0, part.stderr
    curves = [_losses(tmp_path / name) for name in ("whole", "parts")]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3)  # a GPU adds up in no fixed order


def _losses(run: Path) -> np.ndarray:
    losses = read_metrics(run / "metrics.csv")["train/loss"]
    return losses[~np.isnan(losses)]
