"""RegionProposalNetwork: what it may not be built of, what its calls promise, the way of a padded batch."""

import copy
import math
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner
from anchorlab.rpn.backbones.backbones import Tiny
from anchorlab.rpn.boxes import pairwise_iou
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead
from anchorlab.rpn.losses.box import GIoULoss, SmoothL1Loss
from anchorlab.rpn.losses.objectness import QualityFocalLoss, VarifocalLoss
from anchorlab.rpn.losses.quality import CenternessQuality, IoUQuality, Quality, mean_logit
from anchorlab.rpn.network import Losses, RegionProposalNetwork
from anchorlab.rpn.predictions import PendingPredictions
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.rpn.samplers import AllSampler, BalancedSampler, IoUBalancedSampler
from anchorlab.rpn.variants import variant

SIZES = [(70, 101), (53, 90)]
BOXES = [torch.tensor([[10.0, 12.0, 45.0, 50.0], [60.0, 20.0, 100.0, 69.0]]), torch.zeros(0, 4)]
IGNORE = [torch.tensor([False, False]), torch.zeros(0, dtype=torch.bool)]


def build(
    sizes: Sequence[Any] = (16, 32, 64),
    ratios: Sequence[Any] = (0.5, 1.0, 2.0),
    strides: Sequence[int] = Tiny.strides,
    **parts: Any,
) -> RegionProposalNetwork:
    torch.manual_seed(0)
    backbone = Tiny(channels=32)
    anchors = AnchorGrid(sizes, ratios, strides=strides)
    built: dict[str, Any] = {
        "backbone": backbone,
        "anchors": anchors,
        "head": RPNHead(in_channels=backbone.channels, num_anchors=anchors.num_anchors),
        "coder": DeltaCoder(),
        "assigner": MaxIoUAssigner(),
        "sampler": BalancedSampler(num=32),
        "loss": SmoothL1Loss(),
        "proposals": ProposalSelector(post_nms_top_n=50),
    }
    return variant(**{"quality": None, "cascade": None, **built, **parts})


def batch() -> Tensor:
    images = torch.randint(1, 256, (2, 3, 70, 101), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images[1, :, 53:], images[1, :, :, 90:] = 0, 0
    return images


def predict(network: RegionProposalNetwork) -> Any:
    return network(network.prepare(batch(), torch.tensor(SIZES)))


def seeded(*seeds: int) -> list[torch.Generator]:
    """One generator for each of the two images; all from the seed 0 where no seeds are given."""
    return [torch.Generator().manual_seed(seed) for seed in seeds or (0, 0)]


def fitted(network: RegionProposalNetwork) -> tuple[Losses, Losses]:
    """The losses of the batch in the first and the last of 25 steps on it."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    steps = []
    for _ in range(25):
        steps.append(network.loss(predict(network), BOXES, IGNORE, SIZES, seeded()))
        optimizer.zero_grad()
        steps[-1].total.backward()
        optimizer.step()
    return steps[0], steps[-1]


def test_head_of_another_k_is_refused() -> None:
    """torchvision trains a generator of k=1 with a head of k=3 without a word."""
    head = RPNHead(in_channels=32, num_anchors=(3, 3, 3))
    with pytest.raises(ValueError, match=r"anchors per location \[3, 3, 3\].* has \[1, 1, 1\]"):
        build(ratios=[1.0], head=head)


def test_other_strides_and_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"strides \[4, 8, 16\].* has \[8, 16, 32\]"):
        build(strides=(4, 8, 16))
    with pytest.raises(ValueError, match=r"strides \[8, 16\].* has \[8, 16, 32\]"):
        build(sizes=(16, 32), strides=(8, 16))
    with pytest.raises(ValueError, match=r"channels \[64\].* has \[32\]"):
        build(head=RPNHead(in_channels=64, num_anchors=(3, 3, 3)))


def test_prepare_normalises_the_content_and_leaves_the_padding_zero() -> None:
    network = build()
    images = batch()
    prepared = network.prepare(images, torch.tensor(SIZES))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.backbone.mean, network.backbone.std))
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared[0], (images[0] / 255 - mean) / std)
    torch.testing.assert_close(prepared[1, :, :53, :90], (images[1, :, :53, :90] / 255 - mean) / std)
    assert not prepared[1, :, 53:].any()
    assert not prepared[1, :, :, 90:].any()


def test_black_pixels_of_the_content_are_not_padding() -> None:
    prepared = build().prepare(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([[8, 5]]))
    assert (prepared[..., :5] < 0).all()
    assert not prepared[..., 5:].any()


def test_predictions_are_flat_in_the_order_of_the_anchors() -> None:
    predictions = predict(build())
    assert predictions.logits.shape == (2, len(predictions.anchors.boxes))
    position = 0
    for level, num in zip(predictions.levels, predictions.anchors.num_per_level, strict=True):
        rows, columns = level.logits.shape[2:]
        row, column, anchor = rows - 1, columns // 2, 1
        index = position + (row * columns + column) * 3 + anchor
        assert torch.equal(predictions.logits[:, index], level.logits[:, anchor, row, column])
        assert torch.equal(predictions.deltas[:, index], level.deltas[:, 4:8, row, column])
        position += num
    assert predictions.num_locations == position / 3


def test_nothing_depends_on_training_mode() -> None:
    network = build()
    outcomes = []
    for mode in (True, False):
        predictions = predict(network.train(mode))
        losses = network.loss(predictions, BOXES, IGNORE, SIZES, seeded())
        outcomes.append((predictions.logits, losses, network.propose(predictions, SIZES)))
    (logits, losses, proposals), (eval_logits, eval_losses, eval_proposals) = outcomes
    assert torch.equal(logits, eval_logits)
    assert all(map(torch.equal, losses[:4], eval_losses[:4]))
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(proposals, eval_proposals, strict=True))


def test_sample_of_an_image_is_a_function_of_its_own_generator() -> None:
    network = build()
    predictions = predict(network)
    first, again, other = (network.loss(predictions, BOXES, IGNORE, SIZES, seeded(1, s)).total for s in (0, 0, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    image = (predictions.anchors, BOXES[0], IGNORE[0], SIZES[0])
    negatives = [network.targets(*image, *seeded(seed)).negative for seed in (1, 1, 2)]
    assert torch.equal(negatives[0], negatives[1])
    assert not torch.equal(negatives[0], negatives[2])


def test_sizes_may_be_a_tensor() -> None:
    network = build()
    predictions = predict(network)
    as_list = network.loss(predictions, BOXES, IGNORE, SIZES, seeded()).total
    assert torch.equal(network.loss(predictions, BOXES, IGNORE, torch.tensor(SIZES), seeded()).total, as_list)
    for pair in zip(*(network.propose(predictions, s) for s in (SIZES, torch.tensor(SIZES))), strict=True):
        assert torch.equal(pair[0].boxes, pair[1].boxes)


def test_counts_and_images_without_boxes() -> None:
    network = build()
    losses = network.loss(predict(network), BOXES, IGNORE, SIZES, seeded())
    assert losses.num_positives[0] > 0
    assert losses.num_positives[1] == 0
    assert (losses.num_positives + losses.num_negatives).tolist() == [32, 32]
    assert torch.equal(losses.total, losses.objectness + losses.box)


def test_batch_without_any_box_still_teaches_background() -> None:
    network = build()
    empty = [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.bool)] * 2
    losses = network.loss(predict(network), *empty, SIZES, seeded())
    losses.total.backward()
    assert losses.box.item() == 0
    assert losses.objectness.item() == pytest.approx(math.log(2), rel=0.1)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_ignored_boxes_are_nobodys_target() -> None:
    network = build()
    losses = network.loss(predict(network), BOXES, [torch.tensor([True, True]), IGNORE[1]], SIZES, seeded())
    assert losses.num_positives.tolist() == [0, 0]


def test_targets_of_a_positive_lead_to_its_box() -> None:
    network = build()
    anchors = predict(network).anchors
    targets = network.targets(anchors, BOXES[0], IGNORE[0], SIZES[0], seeded()[0])
    decoded = network.coder.decode(anchors.boxes[targets.positive], targets.deltas)
    nearest = torch.cdist(decoded, BOXES[0]).amin(dim=1)
    torch.testing.assert_close(nearest, torch.zeros_like(nearest), rtol=0, atol=1e-3)


def test_box_iou_is_the_mean_over_the_positives_of_both_images() -> None:
    network = build()
    predictions = predict(network)
    boxes = [BOXES[0], BOXES[0][:1] + 5]
    losses = network.loss(predictions, boxes, [IGNORE[0], IGNORE[0][:1]], SIZES, seeded())
    assert min(losses.num_positives.tolist()) > 0
    apart: list[Tensor] = []
    for image, target in enumerate(losses.targets):
        moved = network.coder.decode(
            predictions.anchors.boxes[target.positive], predictions.deltas[image][target.positive]
        )
        apart.append(pairwise_iou(moved, target.boxes).diagonal())
    torch.testing.assert_close(losses.box_iou, torch.cat(apart).mean(), rtol=1e-4, atol=1e-4)


def test_levels_may_differ_in_k() -> None:
    network = build(sizes=[[16], [32, 48], [64]], ratios=[[1.0], [0.5, 1.0, 2.0], [1.0]])
    predictions = predict(network)
    assert [level.logits.shape[1] for level in predictions.levels] == [1, 6, 1]
    assert predictions.deltas.shape == (2, len(predictions.anchors.boxes), 4)
    network.loss(predictions, BOXES, IGNORE, SIZES, seeded()).total.backward()
    assert len(network.propose(predictions, SIZES)) == 2


def test_proposals_stay_inside_their_own_image() -> None:
    network = build()
    for found, (height, width) in zip(network.propose(predict(network), SIZES), SIZES, strict=True):
        assert 0 < len(found.boxes) <= 50
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([width, height, width, height])).all()


def test_a_few_steps_fit_one_batch() -> None:
    """Both losses fall, so gradients reach the backbone through head, assigner and coder as they should."""
    first, last = fitted(build())
    assert last.objectness < 0.5 * first.objectness
    assert last.box < 0.5 * first.box


def test_state_holds_tensors_only_and_a_copy_answers_alike() -> None:
    network = build().eval()
    copied = copy.deepcopy(network)
    copied.load_state_dict(network.state_dict())
    assert all(isinstance(value, Tensor) for value in network.state_dict().values())
    assert torch.equal(predict(network).logits, predict(copied).logits)


@pytest.mark.parametrize(
    ("ratios", "head"),
    [
        ((0.5, 1.0, 2.0), {}),
        ((0.5, 1.0, 2.0), {"objectness": "sigmoid", "channels": 24, "convs": 2}),
        ([[1.0], [0.5, 1.0, 2.0], [0.5, 1.0]], {}),  # k differs by level
    ],
)
def test_pending_predictions_give_the_loss_and_the_gradients_of_all_of_them(ratios: Any, head: dict[str, Any]) -> None:
    anchors = AnchorGrid((16, 32, 64), ratios, strides=Tiny.strides)
    parts = {"anchors": anchors, "head": RPNHead(**head, in_channels=32, num_anchors=anchors.num_anchors)}
    network = build(**parts)
    images = network.prepare(batch(), torch.tensor(SIZES))
    found = []
    for predictions in (network(images), network.pending(images)):
        assert predictions.num_locations == 9 * 13 + 5 * 7 + 3 * 4
        losses = network.loss(predictions, BOXES, IGNORE, SIZES, seeded(3, 4))
        found.append((losses, torch.autograd.grad(losses.total, list(network.parameters()))))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-7)


def with_quality(quality: Quality, **parts: Any) -> RegionProposalNetwork:
    return build(head=RPNHead(in_channels=32, num_anchors=(3, 3, 3), quality=True), quality=quality, **parts)


@pytest.mark.parametrize(
    "parts",
    [
        {"quality": IoUQuality(num=20, background=5), "loss": GIoULoss(objectness=QualityFocalLoss())},
        {"quality": CenternessQuality(num=20), "sampler": IoUBalancedSampler(num=32)},
    ],
)
def test_pending_predictions_of_quality(parts: dict[str, Any]) -> None:
    network = with_quality(**parts)
    images = network.prepare(batch(), torch.tensor(SIZES))
    found = []
    for predictions in (network(images), network.pending(images)):
        losses = network.loss(predictions, BOXES, IGNORE, SIZES, seeded(3, 4))
        assert set(losses.terms) == {"objectness", "box", "quality"}
        torch.testing.assert_close(losses.total, losses.objectness + losses.box + losses.others["quality"])
        found.append((losses, torch.autograd.grad(losses.total, list(network.parameters()))))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-7)


def test_quality_and_objectness_rank_proposals_together() -> None:
    network = with_quality(IoUQuality())
    assert network.head.quality is not None
    with torch.no_grad():
        cast(Tensor, network.head.quality["3"].bias).copy_(torch.tensor([-2.0, 0.0, 3.0]))
    predictions = predict(network)
    assert torch.equal(predictions.logits, mean_logit(predictions.objectness, predictions.quality))
    (proposals, _) = network.propose(predictions, SIZES)
    torch.testing.assert_close(proposals.scores, predictions.logits[0, proposals.anchor].sigmoid())
    together = predictions.objectness.sigmoid() * predictions.quality.sigmoid()
    torch.testing.assert_close(proposals.scores, together[0, proposals.anchor].sqrt())


def test_quality_of_a_batch_without_boxes_costs_nothing() -> None:
    network = with_quality(IoUQuality())
    empty = [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.bool)] * 2
    losses = network.loss(predict(network), *empty, SIZES, seeded())
    losses.total.backward()
    assert losses.others["quality"].item() == 0


def test_quality_leaves_the_sample_and_the_other_terms_as_they_are() -> None:
    plain, other = build(), with_quality(IoUQuality())
    other.load_state_dict(plain.state_dict(), strict=False)
    first, second = (n.loss(predict(n), BOXES, IGNORE, SIZES, seeded(5, 6)) for n in (plain, other))
    assert torch.equal(first.objectness, second.objectness)
    assert torch.equal(first.box, second.box)


def test_head_and_network_agree_about_quality() -> None:
    with pytest.raises(ValueError, match="give both or neither"):
        build(quality=IoUQuality())
    with pytest.raises(ValueError, match="give both or neither"):
        build(head=RPNHead(in_channels=32, num_anchors=(3, 3, 3), quality=True))


def test_all_anchors_are_learnt_from_whole_maps() -> None:
    loss = SmoothL1Loss(divisor="positives", objectness=VarifocalLoss())
    network = build(sampler=AllSampler(), loss=loss, head=RPNHead(prior=0.01, in_channels=32, num_anchors=(3, 3, 3)))
    predictions = network.pending(network.prepare(batch(), torch.tensor(SIZES)))
    assert not isinstance(predictions, PendingPredictions)
    assert predictions.objectness.sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)
    losses = network.loss(predictions, BOXES, IGNORE, SIZES, seeded())
    losses.total.backward()
    assert losses.num_negatives[1] == len(predictions.anchors.boxes)


def test_budget_of_a_sampler_that_has_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss.divisor=budget .* set loss.divisor=positives"):
        build(sampler=AllSampler(), loss=SmoothL1Loss(divisor="budget"))


@pytest.mark.parametrize("loss", [GIoULoss(), GIoULoss(objectness=QualityFocalLoss())])
def test_a_few_steps_with_other_losses_fit_one_batch(loss: GIoULoss) -> None:
    first, last = fitted(with_quality(IoUQuality(num=32), loss=loss))
    assert last.box < 0.75 * first.box
