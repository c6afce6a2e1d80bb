"""The first stage of a cascade: where its convolution looks, what it learns, and that the rest follows the anchors."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from anchorlab.rpn.adaptive_conv import AlignedMap, sampling_offsets
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.atss import ATSSAssigner
from anchorlab.rpn.assigners.centre_region import CentreRegionAssigner
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner
from anchorlab.rpn.backbones.backbones import Tiny
from anchorlab.rpn.boxes import paired_iou
from anchorlab.rpn.cascade import AnchorRefinement, Moves
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead
from anchorlab.rpn.losses.quality import IoUQuality
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.predictions import PendingPredictions
from anchorlab.rpn.sampled_conv import rows_of
from anchorlab.rpn.variants import CascadeRPN
from tests.rpn.test_network import BOXES, IGNORE, SIZES, batch, predict, seeded
from tests.rpn.test_network import build as build_network

STRIDE, ROWS, COLUMNS = 8, 5, 7


def anchors_of(side: float, offset: float = 0.5) -> Any:
    grid = AnchorGrid(shapes=[[side, side]], offset=offset, strides=(STRIDE,))
    return grid([(ROWS, COLUMNS)], (ROWS * STRIDE, COLUMNS * STRIDE), "cpu")


def refinement(channels: int = 6, k: int = 1, **settings: Any) -> AnchorRefinement:
    torch.manual_seed(0)
    derived = {"in_channels": channels, "num_anchors": (k,), "strides": (STRIDE,)}
    return AnchorRefinement(CentreRegionAssigner(), DeltaCoder((10.0, 10.0, 2.0, 2.0)), **settings, **derived)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_anchor_of_two_cells_is_the_usual_convolution(offset: float) -> None:
    anchors = anchors_of(2 * STRIDE, offset)
    assert not sampling_offsets(anchors.boxes[None], anchors.levels[0], STRIDE).any()
    stage, feature = refinement(), torch.randn(2, 6, ROWS, COLUMNS)
    aligned = aligned_map(stage, feature, anchors.boxes.expand(2, -1, -1), anchors).whole()
    usual = F.conv2d(feature, stage.adaptive.weight, stage.adaptive.bias, padding=1).relu()
    torch.testing.assert_close(aligned, usual, rtol=1e-4, atol=1e-6)


def aligned_map(stage: AnchorRefinement, feature: Tensor, moved: Tensor, anchors: Any) -> AlignedMap:
    return AlignedMap(feature, sampling_offsets(moved, anchors.levels[0], STRIDE), stage.adaptive)


def test_anchors_stay_where_they_are_at_first() -> None:
    anchors, feature = anchors_of(2 * STRIDE), 100 * torch.randn(2, 6, ROWS, COLUMNS)
    _, moved = refinement()([feature], anchors)
    assert torch.equal(moved.boxes, anchors.boxes.expand(2, -1, -1))


@given(
    st.integers(0, 2**31),
    st.sampled_from([(1, 1), (1, 6), (5, 7)]),
    st.sampled_from([0.3, 3.0, 50.0]),
    st.sampled_from([0, 9]),
)
def test_map_is_torchvision_s_deformable_convolution(seed: int, grid: tuple[int, int], far: float, count: int) -> None:
    """Values, and gradients in the map and the weights, of inputs between cells, on the edge and outside.

    Of chosen locations, none among them, and of the whole map in parts.
    """
    torch.manual_seed(seed)
    source = torch.randn(2, 6, *grid, dtype=torch.float32, requires_grad=True)
    offset = torch.randn(2, 18, *grid) * far
    offset[:, ::4] = offset[:, ::4].round()
    layer = nn.Conv2d(6, 6, 3)
    aligned, parameters = AlignedMap(source, offset, layer), [source, *layer.parameters()]
    locations = torch.randperm(2 * grid[0] * grid[1])[:count]
    expected = deform_conv2d(source, offset, layer.weight, layer.bias, padding=(1, 1)).relu()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anchorlab.rpn.adaptive_conv.AT_ONCE", 16)
        whole = aligned.whole()
    for found, wanted in ((whole, expected), (aligned.at(locations), rows_of(expected)[locations])):
        values, gradients = [], []
        for value in (found, wanted):
            values.append(value)
            gradients.append(torch.autograd.grad(value.square().sum(), parameters, retain_graph=True))
        torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_moved_anchor_takes_its_features_from_where_it_went() -> None:
    """Two cells to the right and one down: what the convolution gives there, inside the map."""
    anchors, stage, feature = anchors_of(2 * STRIDE), refinement(), torch.randn(1, 6, ROWS, COLUMNS)
    moved = anchors.boxes + torch.tensor([2.0, 1.0, 2.0, 1.0]) * STRIDE
    aligned = aligned_map(stage, feature, moved[None], anchors).whole()
    usual = F.conv2d(feature, stage.adaptive.weight, stage.adaptive.bias, padding=1).relu()
    torch.testing.assert_close(aligned[..., :-1, :-2], usual[..., 1:, 2:], rtol=1e-4, atol=1e-6)


def test_nine_inputs_span_the_anchor() -> None:
    """Of an anchor of 4 x 6 cells the offsets, and the taps themselves, are -1, 0, 1 cells across and -2, 0, 2 down."""
    anchors = anchors_of(2 * STRIDE)
    x1, y1, x2, y2 = anchors.boxes.unbind(1)
    wide = torch.stack((x1 - STRIDE, y1 - 2 * STRIDE, x2 + STRIDE, y2 + 2 * STRIDE), dim=1)
    offset = sampling_offsets(wide[None], anchors.levels[0], STRIDE)
    dy, dx = offset[0, :, 2, 3].view(3, 3, 2).unbind(-1)
    assert dy.tolist() == [[-2.0] * 3, [0.0] * 3, [2.0] * 3]
    assert dx.tolist() == [[-1.0, 0.0, 1.0]] * 3


def test_single_row_takes_the_declared_stride() -> None:
    grid = AnchorGrid(shapes=[[16, 16]], offset=0.5, strides=(STRIDE,))([(1, 1)], (8, 8), "cpu")
    offset = sampling_offsets(grid.boxes[None] + torch.tensor([8.0, 0.0, 8.0, 0.0]), grid.levels[0], STRIDE)
    assert offset.view(9, 2).tolist() == [[0.0, 1.0]] * 9


def test_loss_is_the_mean_of_one_minus_iou() -> None:
    stage, anchors = refinement(weight=3.0), anchors_of(16.0)
    _, moved = stage([torch.zeros(1, 6, ROWS, COLUMNS)], anchors)
    assert torch.equal(moved.boxes[0], stage.coder.decode(anchors.boxes, torch.zeros_like(anchors.boxes)))
    half = anchors.boxes[9] * 1.0
    half[3] -= 8
    moves = [Moves(torch.tensor([9, 10]), torch.stack((half, anchors.boxes[10])))]
    loss = stage.loss(moved, moves, 2)
    torch.testing.assert_close(loss, torch.tensor(3 * (0.5 + 0.0) / 2))
    loss.backward()
    gradient = bias_of(stage).grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def bias_of(stage: AnchorRefinement) -> Tensor:
    assert stage.deltas.bias is not None
    return stage.deltas.bias


def build(**parts: Any) -> CascadeRPN:
    anchors = AnchorGrid((24, 48, 96), [1.0], offset=0.5, strides=Tiny.strides)
    derived = {"in_channels": 32, "num_anchors": anchors.num_anchors}
    cascade = AnchorRefinement(
        CentreRegionAssigner(), DeltaCoder((10.0, 10.0, 2.0, 2.0)), **derived, strides=Tiny.strides
    )
    quality = parts.get("quality") is not None
    head = RPNHead(convs=0, **derived, quality=quality)
    network = build_network(**{"anchors": anchors, "head": head, "cascade": cascade, **parts})
    assert isinstance(network, CascadeRPN)
    return network


def test_second_stage_starts_from_the_moved_anchors() -> None:
    network = build()
    with torch.no_grad():
        bias_of(network.cascade).copy_(torch.tensor([2.0, -1.0, 0.4, -0.2]))
    predictions = predict(network)
    assert predictions.moved.boxes.shape == (2, len(predictions.anchors.boxes), 4)
    for image, (proposals, first) in enumerate(
        zip(network.propose(predictions, SIZES), network.propose_first_stage(predictions, SIZES), strict=True)
    ):
        start = predictions.moved.boxes[image, proposals.anchor]
        boxes = network.coder.decode(start, predictions.deltas[image, proposals.anchor])
        height, width = SIZES[image]
        limits = torch.tensor([width, height, width, height])
        torch.testing.assert_close(proposals.boxes, boxes.clamp(min=0).minimum(limits))
        moved = predictions.moved.boxes[image, first.anchor].clamp(min=0).minimum(limits)
        torch.testing.assert_close(first.boxes, moved, rtol=1e-4, atol=1e-3)


def test_targets_of_the_second_stage_lead_from_the_moved_anchors() -> None:
    network = build()
    predictions = predict(network)
    anchors = predictions.anchors_of(0)
    targets = network.targets(anchors, BOXES[0], IGNORE[0], SIZES[0], seeded()[0])
    assert len(targets.positive) > 0
    decoded = network.coder.decode(predictions.moved.boxes[0, targets.positive], targets.deltas)
    torch.testing.assert_close(paired_iou(decoded, targets.boxes), torch.ones(len(decoded)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("quality", [None, IoUQuality(num=16)])
def test_a_few_steps_fit_one_batch_in_both_stages(quality: IoUQuality | None) -> None:
    network = build(quality=quality)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    terms: list[dict[str, float]] = []
    for _ in range(25):
        losses = network.loss(predict(network), BOXES, IGNORE, SIZES, seeded())
        optimizer.zero_grad()
        losses.total.backward()
        assert all(p.grad is not None for p in network.cascade.parameters())
        optimizer.step()
        terms.append({name: term.item() for name, term in losses.terms.items()})
    assert terms[-1]["stage1"] < 0.6 * terms[0]["stage1"]
    assert terms[-1]["objectness"] < terms[0]["objectness"]


def assert_pending_teaches_the_same(network: RegionProposalNetwork, atol: float) -> None:
    """Losses and all gradients of predictions at sampled locations, against those of whole maps."""
    images = network.prepare(batch(), torch.tensor(SIZES))
    pending = network.pending(images)
    assert isinstance(pending, PendingPredictions)
    found = []
    for predictions in (network(images), pending):
        network.zero_grad()
        losses = network.loss(predictions, BOXES, IGNORE, SIZES, seeded())
        losses.total.backward()
        found.append((losses.terms, {name: p.grad for name, p in network.named_parameters()}))
    torch.testing.assert_close(*found, rtol=1e-3, atol=atol)


@pytest.mark.parametrize("quality", [None, IoUQuality(num=16)])
def test_pending_second_stage_learns_the_same(quality: IoUQuality | None) -> None:
    """Losses and all gradients of features computed where the loss samples, against those computed everywhere."""
    network = build(quality=quality)
    with torch.no_grad():
        bias_of(network.cascade).copy_(torch.tensor([2.0, -1.0, 0.4, -0.2]))
    assert_pending_teaches_the_same(network, atol=1e-5)


def test_head_that_looks_at_neighbours_leaves_nothing_pending() -> None:
    derived = {"in_channels": 32, "num_anchors": (1, 1, 1)}
    network = build(head=RPNHead(convs=1, **derived))
    assert not isinstance(network.pending(network.prepare(batch(), torch.tensor(SIZES))), PendingPredictions)


def test_no_boxes_cost_nothing() -> None:
    network = build()
    predictions = network.pending(network.prepare(batch(), torch.tensor(SIZES)))
    empty = [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.bool)] * 2
    losses = network.loss(predictions, *empty, SIZES, seeded())
    losses.total.backward()
    assert losses.others["stage1"].item() == 0


def test_images_of_a_batch_do_not_depend_on_each_other() -> None:
    network = build().eval()
    images = network.prepare(batch(), torch.tensor(SIZES))
    together, alone = network(images), network(images[1:])
    torch.testing.assert_close(together.moved.boxes[1:], alone.moved.boxes, rtol=1e-4, atol=1e-3)
    one, two = network.propose(together, SIZES)[1], network.propose(alone, SIZES[1:])[0]
    torch.testing.assert_close(one.scores, two.scores, rtol=1e-4, atol=1e-6)


def test_what_a_cascade_cannot_be_made_of() -> None:
    with pytest.raises(ValueError, match=r"cascade moves one anchor per location, and anchor gives k=\[3\]"):
        refinement(k=3)
    with pytest.raises(ValueError, match=r"weight=-1"):
        refinement(weight=-1)
    with pytest.raises(ValueError, match=r"dilation=0"):
        refinement(dilation=0)
    with pytest.raises(ValueError, match="set assigner=max_iou"):
        build(assigner=ATSSAssigner())
    assert not MaxIoUAssigner.needs_grid


def test_network_without_a_cascade_keeps_the_names_of_its_tensors() -> None:
    names = [name for name in build_network().state_dict() if not name.startswith("backbone.")]
    parts = [f"{part}.3" for part in ("scores", "deltas")]
    assert names == [f"head.{layer}.{kind}" for layer in ("conv.0", *parts) for kind in ("weight", "bias")]


def test_wide_tensor_of_anchors_is_each_image_s_own() -> None:
    """The selector takes (B, A, 4): two images at once are each alone."""
    network = build()
    predictions = predict(network)
    shifted = predictions.moved.boxes + torch.tensor([[[0.0]], [[5.0]]])
    anchors: Any = type(predictions.anchors)(shifted, (), predictions.anchors.num_per_level)
    both = network.selector(predictions.logits, predictions.deltas, anchors, network.coder, SIZES)
    for image in range(2):
        own: Any = type(anchors)(shifted[image], (), anchors.num_per_level)
        logits, deltas = predictions.logits[image : image + 1], predictions.deltas[image : image + 1]
        (alone,) = network.selector(logits, deltas, own, network.coder, SIZES[image : image + 1])
        fields: list[tuple[Tensor, Tensor]] = list(zip(alone, both[image], strict=True))
        assert all(torch.equal(a, b) for a, b in fields)
