"""Start weights: a run, checkpoint or export begins a training with other anchors, kernels matched by shape."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from anchorlab.build import build_network
from anchorlab.commands.export import export
from anchorlab.commands.train import train
from anchorlab.errors import SettingError
from anchorlab.rpn.backbones.backbones import Backbone, ResNetFPN
from anchorlab.rpn.backbones.timm_fpn import TimmFPN
from anchorlab.rpn.backbones.weights import body_of
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.trained.load import load_trained
from anchorlab.trained.start import nearest, of_network, start_from, start_with
from tests.commands.conftest import composed
from tests.training.conftest import SMALL

TINY = ("backbone=tiny", "backbone.channels=32", "anchor.scale=null", "anchor.sizes=[16,32,64]")


def network_of(*overrides: str) -> RegionProposalNetwork:
    """With weights of the head that tell anchors apart."""
    network = build_network(composed("train", *TINY, *overrides)).eval()
    with torch.no_grad():
        for parameter in [*network.head.parameters(), *getattr(network, "cascade", network.head).parameters()]:
            parameter.normal_(std=0.05)
    return network


@torch.no_grad()
def said(network: RegionProposalNetwork) -> tuple[list[Tensor], list[Tensor]]:
    """Of each level logits (h, w, k) and decoded boxes (h, w, k, 4), for one image."""
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    predictions = network(image)
    boxes = network.coder.decode(predictions.starts.boxes, predictions.deltas[0])
    grids = [(64 // stride, 96 // stride) for stride in network.anchors.strides]
    per_level = predictions.starts.num_per_level
    logits = predictions.logits[0].split(per_level), boxes.reshape(-1, 4).split(per_level)
    return tuple([part.unflatten(0, (*grid, -1)) for part, grid in zip(parts, grids, strict=True)] for parts in logits)  # pyright: ignore


PLAIN: tuple[str, ...] = ("anchor.sizes=[16,32,64]", "anchor.ratios=[0.5,1,2]")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (PLAIN, PLAIN),
        (PLAIN, ("anchor.sizes=[20,40,80]", "anchor.ratios=[0.4,0.9,2.5,3]", "head=sigmoid")),
        (
            (*PLAIN, "head=sigmoid", "coder.weights=[10,10,5,5]"),
            ("anchor.sizes=[[12,20],[40],[80]]", "anchor.ratios=[1]"),
        ),
        (
            ("anchor.sizes=[[12,20],[40],[80]]", "anchor.ratios=[1]"),
            (*PLAIN, "coder.weights=[2,2,1,1]", "coder.means=[0,0.1,-1,0.5]"),
        ),
        ((*PLAIN, "quality=iou"), (*PLAIN, "anchor.ratios=[2,1]", "quality=iou")),
    ],
)
def test_every_anchor_predicts_the_box_of_the_one_that_it_comes_from(
    theirs: Sequence[str], ours: Sequence[str]
) -> None:
    """On every level, where both have the same sizes of anchors in strides; else where the kernel was taken from."""
    donor, network = network_of(*theirs), network_of(*ours)
    line = start_from(network, of_network(donor))
    assert "1x1 kernels of k = " in line
    (logits, boxes), (wanted_logits, wanted_boxes) = said(network), said(donor)
    compared = 0
    for k, origin in nearest(network.anchors, donor.anchors).items():
        for level, count in enumerate(network.anchors.num_anchors):
            if count != k:
                continue
            for j, (m, i) in enumerate(zip(origin.group, origin.index, strict=True)):
                if donor.anchors.num_anchors[level] == m:  # that kernel serves this level there too
                    torch.testing.assert_close(
                        logits[level][..., j], wanted_logits[level][..., i], rtol=1e-4, atol=1e-5
                    )
                    torch.testing.assert_close(
                        boxes[level][..., j, :], wanted_boxes[level][..., i, :], rtol=1e-4, atol=1e-3
                    )
                    compared += 1
    assert compared >= 3
    if theirs == ours:
        assert all(tensor.equal(donor.state_dict()[name]) for name, tensor in network.state_dict().items())
        assert line.count("IoU 1.00") == 3
    if network.head.quality is not None:
        mine, yours = (next(cast(nn.Module, net.head.quality).parameters()) for net in (network, donor))
        assert torch.equal(mine, yours[[2, 1]])


def test_a_cascade_begins_as_it_was_and_only_a_cascade() -> None:
    words = ("cascade=two_stage", "anchor.ratios=[1]", "assigner=max_iou")
    donor, network = network_of(*words, "anchor.sizes=[16,32,64]"), network_of(*words, "anchor.sizes=[20,40,80]")
    start_from(network, of_network(donor))
    (logits, boxes), (wanted_logits, wanted_boxes) = said(network), said(donor)
    for mine, yours in ((boxes, wanted_boxes), (logits, wanted_logits)):
        for level in range(3):
            torch.testing.assert_close(mine[level], yours[level], rtol=1e-3, atol=1e-2)
    with pytest.raises(ValueError, match=r"no first stage that moves anchors: set cascade=none, or .*\.weights"):
        start_from(network, of_network(network_of(*PLAIN)))
    with pytest.raises(ValueError, match="a first stage that moves anchors: set cascade=two_stage"):
        start_from(network_of(*PLAIN), of_network(donor))


def test_a_quality_output_without_a_donor_begins_anew() -> None:
    network = network_of(*PLAIN, "quality=iou")
    before = copy.deepcopy(network.head.quality)
    assert "the quality output begins anew" in start_from(network, of_network(network_of(*PLAIN)))
    assert network.head.quality is not None
    assert before is not None
    assert all(map(torch.equal, before.parameters(), network.head.quality.parameters()))


def test_runs_checkpoints_and_exports_begin_a_training(
    run: Path, synthetic_root: Path, tmp_path: Path, capsys: Any
) -> None:
    export(composed("export", f"run={run}", f"output={tmp_path / 'model'}", "formats=[safetensors]"))
    more = ["logger=none", "callbacks.outcome.images=0", "preflight=none", "trainer.max_steps=1", "optimizer.lr=1e-9"]
    before = load_trained(run).network
    network = copy.deepcopy(before)
    for source in (run / "checkpoints" / "best.ckpt", tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        assert start_with(network, str(source)).count("IoU 1.00") == 3
    assert all(map(torch.equal, network.parameters(), before.parameters()))
    own = ["anchor.ratios=[1,2]", f"start={run}"]
    train(composed("train", *SMALL, f"data.root={synthetic_root}", *more, *own), tmp_path / "run")
    assert "1x1 kernels of k = 2" in " ".join(capsys.readouterr().out.split())
    started = load_trained(tmp_path / "run").network
    assert started.head.num_anchors != before.head.num_anchors
    torch.testing.assert_close(started.head.conv.state_dict(), before.head.conv.state_dict(), rtol=1e-4, atol=1e-5)


def test_what_is_no_start_is_one_sentence(run: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("nothing")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    for source, sentence in (
        ("nowhere", r"start=.*nowhere does not exist: give the folder of a run"),
        ("text.pth", r"start=.*text.pth is no file of tensors"),
        ("other.pth", "start holds no RPN of torchvision"),
        ("", r"start=.* is no run's folder"),
    ):
        with pytest.raises(SettingError, match=sentence) as error:
            start_with(network_of(*PLAIN), str(tmp_path / source))
        assert "\n" not in str(error.value)
    with pytest.raises(SettingError, match="does not fit this backbone"):
        start_with(network_of("backbone.channels=64"), str(run))


@pytest.mark.parametrize(
    "make",
    [
        lambda weights, channels: TimmFPN("resnet10t", weights, fpn_channels=channels),
        lambda weights, channels: ResNetFPN("resnet18", weights, fpn_channels=channels),
    ],
    ids=["timm", "resnet"],
)
def test_backbone_weights_take_the_body_of_a_run(make: Any, tmp_path: Path) -> None:
    """Of a run's folder and of an exported model, into a backbone whose pyramid has other channels."""
    before: Backbone = make("none", 32)
    state = {f"backbone.{name}": tensor for name, tensor in before.state_dict().items()}
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save(
        {"state_dict": {f"network.{name}": t for name, t in state.items()}}, tmp_path / "run/checkpoints/last.ckpt"
    )
    torch.save(state, tmp_path / "whole.pth")
    for source in ("run", "whole.pth"):
        after = make(str(tmp_path / source), 64)
        for name, tensor in after.state_dict().items():
            if "fpn" not in name and "num_batches" not in name:
                assert torch.equal(tensor, before.state_dict()[name]), name


def test_a_body_without_a_pyramid_goes_under_the_library_s_names() -> None:
    state = {"network.backbone.body.0.weight": torch.ones(1), "network.head.conv.0.weight": torch.zeros(1)}
    assert body_of(state, "features.") == {"features.0.weight": torch.ones(1)}
    assert body_of({"features.0.weight": torch.ones(1)}) == {"features.0.weight": torch.ones(1)}
