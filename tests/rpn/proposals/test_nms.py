"""ProposalSelector: each threshold on its boundary, levels kept apart, and torchvision's filter_proposals."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import clip_boxes_to_image

from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.boxes import pairwise_iou
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.proposals.nms import Proposals, ProposalSelector, SoftNMSSelector

SIZE = (60, 100)  # height, width


def select(
    levels: Sequence[Sequence[tuple[Sequence[float], float]]],
    size: tuple[int, int] = SIZE,
    kind: type[ProposalSelector] = ProposalSelector,
    **settings: float | list[float],
) -> Proposals:
    """What is left of one image whose anchors, taken as they are, are (box, logit) per level."""
    boxes = torch.tensor([box for level in levels for box, _ in level], dtype=torch.float32).reshape(-1, 4)
    logits = torch.tensor([logit for level in levels for _, logit in level], dtype=torch.float32)
    anchors = Anchors(boxes, levels=(), num_per_level=tuple(len(level) for level in levels))
    selector = kind(**settings)  # type: ignore[arg-type]
    (proposals,) = selector(logits[None], torch.zeros(1, len(boxes), 4), anchors, DeltaCoder(), [size])
    return proposals


def test_sorted_by_score_over_all_levels() -> None:
    found = select([[((0, 0, 10, 10), 0.0), ((20, 20, 30, 40), 2.0)], [((50, 10, 90, 50), 1.0)]])
    assert found.boxes.tolist() == [[20, 20, 30, 40], [50, 10, 90, 50], [0, 0, 10, 10]]
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 1.0, 0.0]).sigmoid())
    assert found.level.tolist() == [0, 1, 0]


@pytest.mark.parametrize(("nms_iou", "kept"), [(0.5, 2), (0.499, 1)])
def test_nms_drops_above_the_threshold_only(nms_iou: float, kept: int) -> None:
    pair = [((0, 0, 10, 30), 1.0), ((0, 0, 10, 15), 0.0)]  # IoU exactly 1/2
    assert len(select([pair], nms_iou=nms_iou).boxes) == kept


def test_nms_leaves_other_levels_alone() -> None:
    box = (10, 10, 40, 30)
    assert len(select([[(box, 1.0)], [(box, 0.5)]]).boxes) == 2
    assert len(select([[(box, 1.0), (box, 0.5)]]).boxes) == 1


def test_clipped_to_the_image_itself_not_to_its_padding() -> None:
    found = select([[((-5, -5, 200, 200), 0.0)]], size=(60, 100))
    assert found.boxes.tolist() == [[0, 0, 100, 60]]


def test_min_size_counts_after_clipping_and_includes_its_value() -> None:
    level = [((0, 0, 4, 50), 0.0), ((96, 0, 104, 50), 0.0), ((0, 56.5, 50, 60), 0.0)]
    assert select([level], min_size=4).boxes.tolist() == [[0, 0, 4, 50], [96, 0, 100, 50]]


def test_boxes_beyond_the_image_are_empty_and_go() -> None:
    assert len(select([[((120, 0, 140, 50), 0.0)]], min_size=0).boxes) == 0


def test_score_threshold_includes_its_value() -> None:
    found = select([[((0, 0, 9, 9), 0.0), ((20, 20, 50, 50), -0.1)]], score_threshold=0.5)
    assert found.scores.tolist() == [0.5]


def test_top_n_before_nms_is_per_level_and_after_it_per_image() -> None:
    apart = [(((20 * i), 0, 20 * i + 10, 10), float(i)) for i in range(4)]
    found = select([apart, apart], pre_nms_top_n=2)
    assert found.scores.tolist() == sorted(torch.tensor([3.0, 3.0, 2.0, 2.0]).sigmoid().tolist(), reverse=True)
    assert len(select([apart, apart], post_nms_top_n=3).boxes) == 3


def test_level_without_anchors_and_image_without_proposals() -> None:
    found = select([[], [((0, 0, 10, 10), 0.0)]], score_threshold=1.0)
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == found.level.shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["logits", "deltas"])
def test_non_finite_predictions_raise_and_name_the_level(bad: float, where: str) -> None:
    anchors = Anchors(torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(5, 4), levels=(), num_per_level=(2, 3))
    values = {"logits": torch.zeros(1, 5), "deltas": torch.zeros(1, 5, 4)}
    values[where][0, 4] = bad
    with pytest.raises(FloatingPointError, match=f"Level 1 predicts {where}"):
        ProposalSelector()(values["logits"], values["deltas"], anchors, DeltaCoder(), [SIZE])


def test_finite_logits_whose_sum_is_not_are_fine() -> None:
    anchors = Anchors(torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(2, 4), levels=(), num_per_level=(2,))
    logits = torch.full((1, 2), torch.finfo(torch.float32).max)
    (found,) = ProposalSelector()(logits, torch.zeros(1, 2, 4), anchors, DeltaCoder(), [SIZE])
    assert found.scores.tolist() == [1.0]


def test_overflow_in_decoding_raises() -> None:
    anchors = Anchors(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), levels=(), num_per_level=(1,))
    deltas = torch.tensor([[[0.0, 0.0, 200.0, 0.0]]])
    assert len(ProposalSelector()(torch.zeros(1, 1), deltas, anchors, DeltaCoder(), [SIZE])[0].boxes) == 1
    with pytest.raises(FloatingPointError, match="Level 0 predicts boxes"):
        ProposalSelector()(torch.zeros(1, 1), deltas, anchors, DeltaCoder(clip=None), [SIZE])


def test_proposals_carry_no_gradient() -> None:
    anchors = Anchors(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), levels=(), num_per_level=(1,))
    logits, deltas = torch.zeros(1, 1, requires_grad=True), torch.zeros(1, 1, 4, requires_grad=True)
    (found,) = ProposalSelector()(logits, deltas, anchors, DeltaCoder(), [SIZE])
    assert not found.boxes.requires_grad
    assert not found.scores.requires_grad


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    num_per_level=st.lists(st.integers(0, 60), min_size=1, max_size=3),
    spread=st.sampled_from([0.1, 2.0, 30.0]),
    rounded=st.booleans(),
)
def test_equals_torchvision(seed: int, num_per_level: list[int], spread: float, rounded: bool) -> None:
    """Also where logits tie (rounded) and where probabilities saturate (spread 30)."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(num_per_level)
    corners = torch.rand(total, 2, generator=generator) * 100 - 10
    anchors = torch.cat((corners, corners + torch.rand(total, 2, generator=generator) * 60 + 1), dim=1)
    logits = torch.randn(2, total, generator=generator) * spread
    logits = logits.round() if rounded else logits
    deltas = torch.randn(2, total, 4, generator=generator) * 0.5
    sizes = [(60, 100), (80, 50)]
    selector = ProposalSelector(20, 15, 0.7, 1e-3, 0.1)
    ours = selector(logits, deltas, Anchors(anchors, (), tuple(num_per_level)), DeltaCoder(), sizes)
    boxes, scores = torchvision_filter(logits, deltas, anchors, num_per_level, sizes)
    for image, (found, their_boxes, their_scores) in enumerate(zip(ours, boxes, scores, strict=True)):
        torch.testing.assert_close(found.boxes, their_boxes)
        torch.testing.assert_close(found.scores, their_scores)
        decoded = DeltaCoder().decode(anchors[found.anchor], deltas[image, found.anchor])
        assert torch.equal(clip_boxes_to_image(decoded, sizes[image]), found.boxes)
        assert torch.equal(found.level, torch.repeat_interleave(torch.tensor(num_per_level))[found.anchor])


def torchvision_filter(
    logits: Tensor, deltas: Tensor, anchors: Tensor, num_per_level: list[int], sizes: list[tuple[int, int]]
) -> tuple[list[Tensor], list[Tensor]]:
    before, after = ({"training": n, "testing": n} for n in (20, 15))
    theirs = RegionProposalNetwork(AnchorGenerator(), RPNHead(1, 1), 0.7, 0.3, 256, 0.5, before, after, 0.7, 0.1)
    decoded = theirs.box_coder.decode(deltas.reshape(-1, 4), [anchors] * len(logits))
    return theirs.filter_proposals(decoded.view(len(logits), -1, 4), logits, sizes, num_per_level)


def test_levels_may_have_thresholds_and_budgets_of_their_own() -> None:
    pair = [((0, 0, 10, 30), 1.0), ((0, 0, 10, 15), 0.0)]  # IoU exactly 1/2
    assert select([pair, pair], nms_iou=[0.5, 0.4]).level.tolist() == [0, 1, 0]
    assert select([pair, pair], pre_nms_top_n=[1, 2]).level.tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match=r"proposals.nms_iou=\[0.5, 0.4\] has 2 numbers for 3 levels"):
        ProposalSelector(nms_iou=[0.5, 0.4]).check_levels(3)
    alone = ProposalSelector(pre_nms_top_n=[5, 6], nms_iou=0.3).of_level(1)
    assert (alone.pre_nms_top_n, alone.nms_iou, alone.thinning) == (6, 0.3, "NMS 0.3")


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.booleans())
def test_equal_thresholds_per_level_are_one_threshold(seed: int, rounded: bool) -> None:
    level = random_level(seed, 30, rounded)
    one, several = (select([level[:12], [], level[12:]], nms_iou=iou) for iou in (0.5, [0.5, 0.5, 0.5]))
    assert torch.equal(one.scores, several.scores)
    if not rounded:  # boxes of equal score and level may change places
        assert torch.equal(one.boxes, several.boxes)


def random_level(seed: int, count: int, rounded: bool = False) -> list[tuple[list[float], float]]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat((corners, corners + torch.rand(count, 2, generator=generator) * 40 + 1), dim=1)
    logits = torch.randn(count, generator=generator)
    return list(zip(boxes.tolist(), (logits.round() if rounded else logits).tolist(), strict=True))


def test_soft_nms_of_two_boxes() -> None:
    """IoU 1/2: the second keeps exp(-0.25 / 0.5) of its score. Another level's box keeps its own."""
    pair = [((0, 0, 10, 30), 1.0), ((0, 0, 10, 15), 0.0)]
    found = select([pair, pair[1:]], kind=SoftNMSSelector, sigma=0.5)
    assert found.level.tolist() == [0, 1, 0]
    torch.testing.assert_close(found.scores[2], 0.5 * torch.tensor(-0.5).exp())
    assert len(select([pair], kind=SoftNMSSelector, score_threshold=0.4).boxes) == 1
    of_level = select([pair, pair], kind=SoftNMSSelector, sigma=[0.5, 0.05])
    torch.testing.assert_close(of_level.scores[3], 0.5 * torch.tensor(-5.0).exp())


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 25), st.integers(0, 9), st.sampled_from([0.5, 0.001]), st.integers(1, 40))
def test_soft_nms_is_the_paper_s_loop(seed: int, count: int, second: int, sigma: float, most: int) -> None:
    levels = [random_level(seed, count), random_level(seed + 1, second)]
    found = select(levels, kind=SoftNMSSelector, sigma=sigma, post_nms_top_n=most)
    expected = []
    for number, level in enumerate(levels):
        left = [
            (torch.tensor(logit).sigmoid(), torch.tensor(box).clamp(max=torch.tensor([100.0, 60.0] * 2)))
            for box, logit in level
        ]
        left = [(score, box) for score, box in left if (box[2:] > box[:2]).all()]
        while left:
            best = max(range(len(left)), key=lambda i: left[i][0])
            score, box = left.pop(best)
            expected.append((score.item(), number, box.tolist()))
            left = [(s * torch.exp(-(pairwise_iou(box[None], b[None])[0, 0] ** 2) / sigma), b) for s, b in left]
    expected.sort(key=lambda found: -found[0])
    # An IoU of float32 is off by up to 1e-7, and the exponent by 1 / sigma times that.
    scores = torch.tensor([score for score, _, _ in expected[:most]])
    torch.testing.assert_close(found.scores, scores, rtol=1e-6 / sigma, atol=1e-5)
    apart = len({round(score, 5) for score, _, _ in expected}) == len(expected)
    if apart:
        assert found.level.tolist() == [level for _, level, _ in expected[:most]]
        torch.testing.assert_close(found.boxes, torch.tensor([b for _, _, b in expected[:most]]).view(-1, 4))


def test_sigma_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"sigma=0"):
        SoftNMSSelector(sigma=0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pre_nms_top_n": 0},
        {"post_nms_top_n": -1},
        {"nms_iou": 1.5},
        {"min_size": -1},
        {"score_threshold": math.nan},
    ],
)
def test_wrong_settings_are_named(arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(arguments))}="):
        ProposalSelector(**arguments)
