"""The second look: what it learns from, that it reaches no box before it, and what it makes of candidates."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from anchorlab.rpn.backbones.backbones import Tiny
from anchorlab.rpn.boxes import paired_iou, pairwise_iou
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead
from anchorlab.rpn.losses.quality import IoUQuality
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.proposals.nms import Candidates, ProposalSelector
from anchorlab.rpn.refine import Looks, SecondLook, both, copies_of
from anchorlab.rpn.samplers import AllSampler
from anchorlab.rpn.variants import RefinedQualityRPN, RefinedRPN
from tests.rpn.test_cascade import assert_pending_teaches_the_same, refinement
from tests.rpn.test_network import BOXES, IGNORE, SIZES, batch, fitted, predict, seeded
from tests.rpn.test_network import build as build_network

SIZE = (70, 101)
NO_IGNORE = torch.zeros(0, dtype=torch.bool)
EMPTY = [torch.zeros(0, 4)] * 2, [NO_IGNORE] * 2


def look(**settings: Any) -> SecondLook:
    torch.manual_seed(0)
    derived = {"in_channels": 32, "strides": Tiny.strides}
    return SecondLook(
        DeltaCoder((10.0, 10.0, 5.0, 5.0)), **{"samples": 16, "width": 8, "channels": 16, **settings}, **derived
    )


def build(**parts: Any) -> RefinedRPN:
    head = RPNHead(in_channels=32, num_anchors=(3, 3, 3), quality=parts.get("quality") is not None)
    network = build_network(**{"head": head, "refine": look(), **parts})
    assert isinstance(network, RefinedRPN)
    return network


def perturbed(network: RefinedRPN) -> RefinedRPN:
    """One whose second look says something about each box: its last layers start with zeros."""
    for layer in (network.refine.score, network.refine.deltas):
        torch.nn.init.normal_(layer.weight, std=0.5)
    return network


def with_weights_of(plain: RegionProposalNetwork) -> RefinedRPN:
    network = build()
    network.load_state_dict(plain.state_dict(), strict=False)
    return network


def draw(
    found: Sequence[Sequence[float]], logits: Sequence[float], boxes: Tensor, ignore: Tensor, **settings: Any
) -> Looks:
    rows = torch.tensor(found).reshape(-1, 4)
    return look(**settings).draw(rows, torch.tensor(logits), boxes, ignore, SIZE, torch.Generator().manual_seed(0))


# --------------------------------------------------------------------------------------------- what it learns from


def test_a_box_at_the_threshold_is_near_and_the_highest_scored_others_are_not() -> None:
    """IoU 0.5 with the object exactly, one below it, and background, of which one has no area once it is clipped."""
    objects = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    half, below = [0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 4.5]
    far, farther, outside = [50.0, 50.0, 60.0, 60.0], [70.0, 50.0, 80.0, 60.0], [101.0, 0.0, 120.0, 9.0]
    found = draw(
        [half, below, far, farther, outside], [0.0, 1.0, -5.0, 2.0, 9.0], objects, torch.tensor([False]), samples=4
    )
    near = found.boxes[found.is_near]
    assert len(near) == 2
    assert (paired_iou(near, objects.expand(2, 4)) >= 0.5).all()
    assert found.boxes[~found.is_near].tolist() == [farther, below]
    assert torch.equal(found.objects, objects.expand(4, 4))


def test_ignored_regions_teach_nothing_and_no_object_is_copied() -> None:
    """Half of a box in a region is enough; less of it is background."""
    regions = torch.tensor([[20.0, 20.0, 40.0, 40.0]])
    half, less = [30.0, 20.0, 50.0, 40.0], [31.0, 20.0, 51.0, 40.0]
    found = draw([half, less], [3.0, 1.0], regions, torch.tensor([True]))
    assert found.boxes.tolist() == [less]
    assert not found.is_near.any()


def test_an_image_without_anything_teaches_nothing() -> None:
    found = draw([], [], torch.zeros(0, 4), NO_IGNORE)
    assert [len(field) for field in found] == [0, 0, 0]


def test_copies_lie_at_all_distances() -> None:
    objects = torch.tensor([[10.0, 20.0, 40.0, 80.0], [50.0, 5.0, 90.0, 15.0]])
    copies = copies_of(objects, 2000, torch.Generator().manual_seed(0))
    iou = pairwise_iou(copies, objects).amax(dim=1)
    shares = torch.histc(iou, bins=5, min=0.0, max=1.0) / len(iou)
    assert shares[2:].min() > 0.1  # 0.4 to 0.6, to 0.8 and to 1
    assert iou.min() > 0.15
    assert ((copies[:, 2:] - copies[:, :2]) > 0).all()


def test_loss_is_what_it_says() -> None:
    """One near box of IoU 0.5 and one far one, of a head that says 0: log 2 each, and what GIoU and deltas cost."""
    second = look(score_weight=2.0, box_weight=3.0)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 5.0], [40.0, 40.0, 60.0, 60.0]])
    objects = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]])
    maps = [torch.randn(1, 32, 9, 13), torch.randn(1, 32, 5, 7), torch.randn(1, 32, 3, 4)]
    losses = second.loss(maps, [Looks(boxes, objects, torch.tensor([True, False]))], 4)
    torch.testing.assert_close(losses.score, 2 * 2 * torch.tensor(2.0).log() / 4)
    # Deltas wanted: 0, 10 * 2.5 / 5 = 5, 0, 5 log 2 = 3.47; smooth L1 of both is the number less a half.
    deltas = 4.5 + 5 * torch.tensor(2.0).log() - 0.5
    torch.testing.assert_close(losses.box, 3 * (0.5 + 0.1 * deltas) / 4)


# ------------------------------------------------------------------------------------------------ in the network


def test_gradient_reaches_the_features_and_no_earlier_box() -> None:
    """Of its own losses: the backbone learns, what predicts the first boxes does not."""
    network = perturbed(build())
    losses = network.loss(predict(network), BOXES, IGNORE, SIZES, seeded())
    (losses.others["refine_score"] + losses.others["refine_box"]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.refine.hidden.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.backbone.parameters())
    assert all(p.grad is None for p in network.head.parameters())


def test_first_stage_learns_as_without() -> None:
    """The same sample, and the same losses from it."""
    plain = build_network()
    network = with_weights_of(plain)
    losses, expected = (each.loss(predict(each), BOXES, IGNORE, SIZES, seeded()) for each in (network, plain))
    torch.testing.assert_close(losses.objectness, expected.objectness)
    torch.testing.assert_close(losses.box, expected.box)


@pytest.mark.parametrize("quality", [None, IoUQuality(num=16)])
def test_pending_predictions_teach_the_same(quality: IoUQuality | None) -> None:
    """Losses and all gradients of predictions at sampled locations, against those of whole maps."""
    network = perturbed(build(quality=quality))
    assert isinstance(network, RefinedQualityRPN) == (quality is not None)
    assert_pending_teaches_the_same(network, atol=1e-4)


def test_sampler_of_all_anchors_leaves_nothing_pending() -> None:
    network = build(sampler=AllSampler())
    predictions = network.pending(network.prepare(batch(), torch.tensor(SIZES)))
    assert network.loss(predictions, BOXES, IGNORE, SIZES, seeded()).total.isfinite()


def test_a_few_steps_move_boxes_to_their_objects_and_score_them_by_it() -> None:
    """Of one image, from features that nobody trained for it."""
    second = look(samples=64, width=32, channels=64)
    maps = [feature[:1].detach() for feature in predict(build()).maps]
    far = torch.tensor([[x, y, x + 12.0, y + 20.0] for x in range(0, 80, 8) for y in range(0, 50, 8)])
    looks = second.draw(far, torch.rand(len(far)), BOXES[0], IGNORE[0], SIZE, seeded()[0])
    optimizer = torch.optim.AdamW(second.parameters(), lr=3e-3)
    for _ in range(60):
        losses = second.loss(maps, [looks], len(looks.boxes))
        optimizer.zero_grad()
        (losses.score + losses.box).backward()
        optimizer.step()
    with torch.no_grad():
        logits, deltas = second(maps, [looks.boxes])
    iou = paired_iou(second.coder.decode(looks.boxes, deltas), looks.objects)
    before = paired_iou(looks.boxes, looks.objects)
    assert iou[looks.is_near].mean() > before[looks.is_near].mean() + 0.1
    assert (logits.sigmoid() - iou).abs().mean() < 0.15


@pytest.mark.parametrize("quality", [None, IoUQuality(num=16)])
def test_a_few_steps_fit_one_batch(quality: IoUQuality | None) -> None:
    first, last = fitted(build(quality=quality))
    assert last.others["refine_score"] < first.others["refine_score"]
    assert last.objectness < first.objectness


def test_no_boxes_cost_no_box_loss() -> None:
    network = build()
    losses = network.loss(predict(network), *EMPTY, SIZES, seeded())
    losses.total.backward()
    assert losses.others["refine_box"].item() == 0
    assert losses.total.isfinite()


def test_images_of_a_batch_do_not_depend_on_each_other() -> None:
    network = perturbed(build()).eval()
    images = network.prepare(batch(), torch.tensor(SIZES))
    together = network.propose(network(images), SIZES)
    alone = [network.propose(network(images[i : i + 1]), SIZES[i : i + 1])[0] for i in range(2)]
    for one, two in zip(together, alone, strict=True):
        torch.testing.assert_close(one.boxes, two.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(one.scores, two.scores, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------- in proposing


def test_first_stage_alone_is_the_plain_network_s() -> None:
    plain = build_network()
    network = with_weights_of(plain)
    ours = network.propose_first_stage(predict(network), SIZES)
    for a, b in zip(ours, plain.propose(predict(plain), SIZES), strict=True):
        torch.testing.assert_close(a.boxes, b.boxes)
        assert torch.equal(a.anchor, b.anchor)


def test_only_the_best_are_looked_at_and_near_duplicates_are_not() -> None:
    """A box of no area and one that overlaps a better one by more than 0.9 go; the best two of the rest are left."""
    boxes = torch.tensor(
        [
            [0.0, 0.0, 20.0, 20.0],
            [0.0, 0.0, 20.0, 19.0],
            [-9.0, 0.0, 0.0, 9.0],
            [40.0, 40.0, 60.0, 60.0],
            [5.0] * 2 + [9.0] * 2,
        ]
    )
    first = Candidates(
        boxes[None],
        torch.tensor([[0.64, 0.5, 0.9, 0.16, 0.04]]),
        torch.tensor([1, 1, 0, 2, 2]),
        torch.tensor([[3, 4, 5, 6, 7]]),
    )
    maps = [torch.randn(1, 32, 9, 13), torch.randn(1, 32, 5, 7), torch.randn(1, 32, 3, 4)]
    found = look(num=2, unmoved=0.75).candidates(maps, first, SIZE)
    assert found.anchor.tolist() == [[3, 6, 3, 6]]
    assert found.level.tolist() == [1, 2, 1, 2]
    torch.testing.assert_close(found.boxes[0], boxes[[0, 3, 0, 3]])  # at first none moves
    moved = torch.tensor([[0.64, 0.16]]).sqrt() * 0.5**0.5
    torch.testing.assert_close(found.scores, torch.cat((moved, 0.75 * moved), dim=1))


def test_no_candidates_are_no_proposals() -> None:
    first = Candidates(torch.zeros(1, 3, 4), torch.rand(1, 3), torch.zeros(3, dtype=torch.int64), torch.arange(3)[None])
    maps = [torch.randn(1, 32, 9, 13), torch.randn(1, 32, 5, 7), torch.randn(1, 32, 3, 4)]
    found = look().candidates(maps, first, SIZE)
    assert found.boxes.shape == (1, 0, 4)
    assert len(ProposalSelector().select(found, 0, SIZE).boxes) == 0


def test_proposals_lie_inside_the_image_best_first() -> None:
    network = perturbed(build())
    for proposals, (height, width) in zip(network.propose(predict(network), SIZES), SIZES, strict=True):
        assert 0 < len(proposals.boxes) <= 50
        assert (proposals.boxes >= 0).all()
        assert (proposals.boxes <= torch.tensor([width, height, width, height])).all()
        assert (proposals.scores[1:] <= proposals.scores[:-1]).all()


def test_numbers_that_are_not_finite_are_named() -> None:
    network = build()
    torch.nn.init.constant_(network.refine.deltas.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="The second look predicts NaN"):
        network.propose(predict(network), SIZES)


def test_mean_of_two_tiny_probabilities_is_not_zero() -> None:
    tiny = torch.tensor([1e-30])
    torch.testing.assert_close(both(tiny, tiny), tiny)


def test_what_it_cannot_be_made_of() -> None:
    for settings, sentence in (
        ({"num": 0}, "num=0"),
        ({"samples": 0}, "samples=0"),
        ({"near_iou": 0.0}, "near_iou=0"),
        ({"nms_iou": 1.5}, r"nms_iou=1\.5"),
        ({"unmoved": 0.0}, "unmoved=0"),
        ({"score_weight": -1.0}, "score_weight=-1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            look(**settings)
    with pytest.raises(ValueError, match="set refine=none or cascade=none"):
        build(cascade=refinement(channels=32))


def test_network_without_it_is_the_plain_class_with_its_tensors() -> None:
    network = build_network()
    assert type(network) is RegionProposalNetwork
    assert not [name for name in network.state_dict() if "refine" in name]


def test_backbone_s_sources_give_its_maps() -> None:
    """What the head sees in `forward` are the maps of the backbone's own, whose sources are looked at again."""
    network = build()
    images = network.prepare(batch(), torch.tensor(SIZES))
    levels = network.backbone.pending_on(network.backbone.plain_maps(images))
    for level, feature in zip(levels, network.backbone(images), strict=True):
        assert torch.equal(level.whole(), feature)
        assert level.source.shape == feature.shape
