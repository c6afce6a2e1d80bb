"""Training and validation on a pretended device: no tensor is left on the CPU, and every wait is a known one."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from anchorlab.build import build_network
from anchorlab.config.composition import composed, to_plain
from anchorlab.data.batch import Batch
from anchorlab.installation import CONFIGS
from anchorlab.rpn.network import RegionProposalNetwork
from tests.pretended_device import DEVICE, PretendedDevice, moved, pretended_device

SIZES = ((96, 120), (96, 128))
BOXES = (((4, 8, 40, 44), (50, 50, 110, 90), (2, 60, 20, 90)), ())  # the second image has none
SMALL_ANCHORS = "anchor.sizes=[24,48,96]"


def network_of(*overrides: str) -> RegionProposalNetwork:
    config = to_plain(composed("train", CONFIGS, ("data=synthetic", "coder=delta", *overrides)))
    return build_network(config)


def batch_of(targets: bool = False) -> Batch:
    images = torch.randint(0, 256, (2, 3, 96, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    boxes = torch.tensor([box for image in BOXES for box in image], dtype=torch.float32)
    ignore = torch.zeros(len(boxes), dtype=torch.bool)
    ignore[2:] = True
    return Batch(
        images=images,
        sizes=torch.tensor(SIZES),
        scales=torch.ones(2, 2, dtype=torch.float64),
        index=torch.arange(2),
        image_ids=[0, 1],
        num_boxes=[len(image) for image in BOXES],
        all_boxes=boxes,
        all_ignore=ignore,
        all_category=torch.zeros(len(boxes), dtype=torch.int64),
        all_targets=None,
    )


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(2)]


def step(network: RegionProposalNetwork, optimizer: torch.optim.Optimizer, batch: Batch, sampled: bool) -> Any:
    images = network.prepare(batch.images, batch.sizes)
    predictions = network.pending(images) if sampled else network(images)
    losses = network.loss(predictions, batch.boxes, batch.ignore, batch.sizes, generators())
    optimizer.zero_grad()
    losses.total.backward()
    optimizer.step()
    return losses


def trained(*overrides: str, sampled: bool = True) -> tuple[RegionProposalNetwork, PretendedDevice]:
    """The network on the device after two steps there, and what the second one waited for; equal to the CPU's."""
    torch.manual_seed(0)
    network = network_of(*overrides)
    here = _losses(network, batch_of(), sampled)
    torch.manual_seed(0)
    network = network_of(*overrides)
    with pretended_device() as device:
        there = _losses(moved(network), batch_of().to(DEVICE), sampled, device)
    torch.testing.assert_close(torch.tensor(there), torch.tensor(here), rtol=0, atol=0)
    return network, device


def _losses(
    network: RegionProposalNetwork, batch: Batch, sampled: bool, device: PretendedDevice | None = None
) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], foreach=False)
    losses = []
    for _ in range(2):
        if device is not None:
            device.waits.clear()
            device.uploads.clear()
        losses.append(step(network, optimizer, batch, sampled).total.detach())
    return [float(loss) for loss in losses]


WAYS: dict[str, Sequence[str]] = {
    "atss": (),
    "max_iou": ("assigner=max_iou", "loss=smooth_l1"),
    "resnet18": ("backbone=resnet18_fpn", "backbone.weights=none", "anchor=fpn"),
}


WAITS = {
    # What is sampled of which anchors depends on the boxes: their numbers are asked for, image by image.
    "rpn.anchor_iou": "as many pairs of anchor and box as touch",
    "rpn.assigners": "as many anchors as are labelled, and whether an image has ignored regions",
    "rpn.network.RegionProposalNetwork.sample": "as many boxes as are not ignored",
    "rpn.samplers": "as many positives and negatives as there are to draw from",
    "rpn.sampled_conv._Gather.forward": "which neighbours lie beyond the map: few rows to clear",
    "rpn.predictions.at_locations": "as many cells as the sampled anchors lie in",
    "rpn.network.RegionProposalNetwork.losses_of": "as many deltas as there are positives",
    # torchvision's losses clip what is degenerate by a mask; torch's own autograd runs outside of the package.
    "rpn.losses.box": "torchvision's GIoU",
    "outside of the package": "backward of the masks above; the test's own reading of the loss",
}
"""Where a step waits for the device, and what for."""


@pytest.mark.parametrize(("way", "sampled"), [("atss", True), ("atss", False), ("max_iou", True), ("resnet18", True)])
def test_step_leaves_nothing_on_the_cpu_and_waits_where_it_must(way, sampled):
    _, device = trained(*WAYS[way], sampled=sampled)
    unknown = {place for place, _ in device.waits if not place.startswith(tuple(WAITS))}
    assert not unknown
    assert not device.uploads
    assert device.waits["rpn.network.RegionProposalNetwork.sample", "boolean mask"] == 2  # it has watched: two images


def test_tensor_that_was_left_on_the_cpu_is_found():
    network = network_of()
    with pretended_device():
        batch = batch_of().to(DEVICE)
        moved(network.backbone)  # and not the head
        images = network.prepare(batch.images, batch.sizes)
        with pytest.raises(RuntimeError, match=r"mixes devices.*in rpn\."):
            network(images)
        moved(network.head)
        planted = torch.zeros(3)
        with pytest.raises(RuntimeError, match=r"mixes devices: .*shapes \[\(3,\)\]"):
            torch.add(network(images).logits[0][0].flatten()[:3], planted)
