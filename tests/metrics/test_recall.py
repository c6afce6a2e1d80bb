"""Recall against pycocotools: equal figures for all ties, crowds, areas, orders, repeats and processes."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask
from torch.multiprocessing.spawn import spawn

from anchorlab.metrics.from_ranks import AREA_RANGES, THRESHOLDS, UNMATCHED, metrics_from_ranks
from anchorlab.metrics.recall import ProposalRecall, finds_known, iou_of, pairs_above_half, serve_in_order
from tests.by_pycocotools import Scored, by_pycocotools, xywh


def scored(proposals=(), scores=(), gt=(), area=None, ignore=None) -> Scored:
    gt = np.array(gt, dtype=np.float64).reshape(-1, 4)
    own_area = (gt[:, 2] - gt[:, 0]) * (gt[:, 3] - gt[:, 1])
    return Scored(
        np.array(proposals, dtype=np.float64).reshape(-1, 4),
        np.array(scores, dtype=np.float64),
        gt,
        own_area if area is None else np.array(area, dtype=np.float64),
        np.zeros(len(gt), dtype=bool) if ignore is None else np.array(ignore, dtype=bool),
    )


def measure(images: list[Scored], budgets, order=None) -> ProposalRecall:
    metric = ProposalRecall(budgets)
    for index in range(len(images)) if order is None else order:
        metric.update(index, *images[index])
    return metric


@st.composite
def sharp_boxes(draw, most: int) -> list:
    """Boxes on a coarse grid, so that equal IoUs, duplicates and IoUs exactly on a threshold are common."""
    corner, side = st.integers(0, 6), st.integers(0, 10)
    step = draw(st.sampled_from([1.0, 8.0, 10.0, 0.1]))
    raw = draw(st.lists(st.tuples(corner, corner, side, side), max_size=most))
    return [[x * step, y * step, (x + w) * step, (y + h) * step] for x, y, w, h in raw]


@st.composite
def images(draw) -> Scored:
    gt, proposals = draw(sharp_boxes(6)), draw(sharp_boxes(14))
    proposals += [gt[i] for i in draw(st.lists(st.integers(0, len(gt) - 1), max_size=6))] if gt else []
    scores = draw(st.lists(st.sampled_from([0.1, 0.5, 0.9, -1.0]), min_size=len(proposals), max_size=len(proposals)))
    areas = st.sampled_from([0.0, 1.0, 1023.9, 1024.0, 1024.1, 9216.0, 9216.1, 1e10, 2e10])
    area = draw(st.none() | st.lists(areas, min_size=len(gt), max_size=len(gt)))
    return scored(proposals, scores, gt, area, draw(st.lists(st.booleans(), min_size=len(gt), max_size=len(gt))))


@given(st.lists(images(), min_size=1, max_size=4), st.sampled_from([(1,), (1, 2, 5), (3, 100), (10, 50, 1000)]))
@settings(max_examples=300)
def test_equals_pycocotools_on_adversarial_sets(dataset, budgets):
    assert measure(dataset, budgets).compute() == pytest.approx(by_pycocotools(dataset, budgets), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_on_crowded_images_with_more_proposals_than_the_budget(seed):
    rng = np.random.default_rng(seed)
    dataset = [random_image(rng, num_proposals=1300, num_boxes=30) for _ in range(3)]
    budgets = (10, 50, 100, 300, 1000)
    assert measure(dataset, budgets).compute() == pytest.approx(by_pycocotools(dataset, budgets), abs=1e-9)


def finds_known_one_by_one(image: Scored, known: np.ndarray) -> np.ndarray:
    """OLN's rule in the loops of its evaluation: boxes that count first, each taken once, at IoU 0.5."""
    finds, free = np.zeros(len(image.boxes), dtype=bool), ~image.gt_ignore
    for proposal in np.argsort(-image.scores, kind="stable"):
        for group in (~known, known):
            best, taken = 0.5, -1
            for box in np.flatnonzero(free & group):
                iou = iou_of(image.gt_boxes[box], image.boxes[proposal])
                if iou >= best:
                    best, taken = iou, box
            if taken >= 0:
                free[taken], finds[proposal] = False, group is known
                break
    return finds


@given(st.lists(images(), min_size=1, max_size=3), st.data())
@settings(max_examples=100)
def test_proposals_on_known_objects_use_up_no_budget(dataset, data):
    budgets, metric, without = (1, 2, 5), ProposalRecall((1, 2, 5)), []
    for index, image in enumerate(dataset):
        size = len(image.gt_boxes)
        known = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=bool)
        metric.update(index, image.boxes, image.scores, image.gt_boxes, image.gt_area, image.gt_ignore, known)
        kept = ~finds_known_one_by_one(image, known)
        others = [field[~known] for field in image[2:]]
        without.append(Scored(image.boxes[kept], image.scores[kept], *others))
    assert metric.compute() == pytest.approx(measure(without, budgets).compute(), abs=1e-12)


def test_second_proposal_on_a_known_object_and_one_that_finds_both():
    """Boxes: known, unseen and an unseen one half of which is known. IoU 0.5 itself is a find."""
    gt = np.array([[0, 0, 10, 10], [50, 0, 60, 10], [20, 0, 30, 10], [20, 0, 30, 5]], dtype=float)
    counted, known = np.array([False, True, True, False]), np.array([True, False, False, True])
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 20], [20, 0, 30, 10], [20, 0, 30, 10]], dtype=float)
    finds = finds_known(boxes, np.array([0.8, 0.9, 0.1, 0.5, 0.4]), gt, counted, known)
    assert finds.tolist() == [False, True, False, False, True]
    assert not finds_known(boxes, np.ones(5), gt, counted, np.zeros(4, dtype=bool)).any()


def random_image(rng: np.random.Generator, num_proposals: int, num_boxes: int) -> Scored:
    """Overlapping objects with proposals scattered about each: long chains of second and third choices."""
    centre, size = rng.uniform(0, 150, (num_boxes, 2)), np.exp(rng.uniform(2.5, 5, (num_boxes, 2)))
    gt = np.concatenate([centre, centre + size], axis=1)
    near = gt[rng.integers(0, num_boxes, num_proposals)] + rng.normal(0, 6, (num_proposals, 4))
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2])
    area = size.prod(axis=1) * rng.uniform(0.3, 1, num_boxes)
    scores = np.round(rng.uniform(size=num_proposals), 2)
    return scored(near, scores, gt, area, rng.uniform(size=num_boxes) < 0.1)


def test_iou_exactly_on_the_threshold_is_found():
    gt = [[0, 0, 10, 20]]  # taller than wide: swapped axes would show
    on, below = [[0, 0, 10, 10]], [[0, 0, 10, 9.999]]
    assert measure([scored(on, [1], gt)], [1]).compute()["recall_1"] == 1.0
    assert measure([scored(below, [1], gt)], [1]).compute()["recall_1"] == 0.0


def test_a_proposal_finds_one_box_and_a_box_is_found_once():
    gt = [[0, 0, 10, 10], [0, 1, 10, 11]]
    one = scored([[0, 0, 10, 10], [0, 0, 10, 10]], [0.9, 0.8], gt)
    ranks = measure([one], [1, 2]).ranks()["rank"]
    assert ranks[:, 0, 0].tolist() == [0, 1]  # the second proposal takes what the first left
    assert ranks[:, -1, 0].tolist() == [0, UNMATCHED]  # at IoU 0.95 the other box is out of reach


def test_what_a_proposal_may_take_when_its_first_choice_is_gone_includes_the_threshold():
    gt = [[0, 0, 10, 10], [0, 0, 10, 20]]
    one = scored([[0, 0, 10, 10], [0, 0, 10, 10]], [0.9, 0.8], gt)
    ranks = measure([one], [2]).ranks()["rank"]
    assert ranks[:, 0, 0].tolist() == [0, 1]  # the second proposal has an IoU of exactly 0.5 with what is left
    assert ranks[:, 1, 0].tolist() == [0, UNMATCHED]


def test_among_boxes_of_equal_iou_the_later_is_taken():
    gt = [[0, 0, 10, 8], [0, 2, 10, 10]]
    assert measure([scored([[0, 1, 10, 9]], [1], gt)], [1]).ranks()["rank"][:, 0, 0].tolist() == [
        UNMATCHED,
        0,
    ]


def test_an_area_on_the_border_counts_on_both_sides():
    image = scored([[0, 0, 32, 32]], [1], [[0, 0, 32, 32]])
    result = measure([image], [1]).compute()
    assert (result["AR_s_1"], result["AR_m_1"], result["AR_l_1"]) == (1.0, 1.0, -1.0)


def test_an_image_without_proposals_misses_its_boxes_and_one_without_boxes_changes_nothing():
    found = scored([[0, 0, 9, 9]], [1], [[0, 0, 9, 9]])
    missed, empty = scored(gt=[[0, 0, 9, 9]]), scored([[0, 0, 9, 9]], [1])
    assert measure([found, missed, empty], [10]).compute()["recall_10"] == 0.5


def test_nothing_to_find_is_minus_one():
    for dataset in ([], [scored()], [scored([[0, 0, 9, 9]], [1], [[0, 0, 9, 9]], ignore=[True])]):
        metric = ProposalRecall([10])
        for index, image in enumerate(dataset):
            metric.update(index, *image)
        with warnings.catch_warnings(action="ignore"):  # torchmetrics: compute before any update
            assert set(metric.compute().values()) == {-1.0}


def test_key_names_and_arrays():
    metric = measure([scored(gt=[[0, 0, 9, 9]]), scored()], [100, 10])
    keys = ["recall_10", "recall_iou70_10", "AR_10", "AR_s_10", "AR_m_10", "AR_l_10"]
    assert list(metric.compute()) == keys + [key.replace("10", "100") for key in keys]
    arrays = metric.ranks()
    assert arrays["index"].tolist() == [0, 1]
    assert arrays["num_boxes"].tolist() == [1, 0]
    assert arrays["rank"].shape == (1, 10, 4)
    assert arrays["areas"].tolist() == list(AREA_RANGES)
    np.testing.assert_array_equal(arrays["thresholds"], THRESHOLDS)
    assert metric.table().shape == (2, 10)


def test_the_table_is_recall_of_boxes_of_every_size():
    found, missed = scored([[0, 0, 9, 9]], [1], [[0, 0, 9, 9]]), scored(gt=[[0, 0, 99, 99]])
    assert (measure([found, missed], [1]).table() == 0.5).all()


def test_flags_may_be_numbers():
    image = scored(gt=[[0, 0, 9, 9], [0, 0, 5, 5]], ignore=[True, False])
    metric = ProposalRecall([1])
    metric.update(0, *image._replace(gt_ignore=image.gt_ignore.astype(np.uint8)))
    assert metric.ranks()["counted"][:, 0].tolist() == [False, True]


def test_figures_follow_from_the_saved_arrays(tmp_path):
    rng = np.random.default_rng(5)
    metric = measure([random_image(rng, 40, 5) for _ in range(4)], [1, 10])
    np.savez_compressed(tmp_path / "recall.npz", **metric.ranks())  # type: ignore[arg-type]
    with np.load(tmp_path / "recall.npz", allow_pickle=False) as saved:
        assert metrics_from_ranks(saved["rank"], saved["counted"], saved["budgets"].tolist()) == metric.compute()


@given(st.permutations(range(5)), st.lists(st.integers(0, 4), max_size=4))
@settings(max_examples=20)
def test_order_and_repeats_change_no_bit(order, repeats):
    rng = np.random.default_rng(1)
    dataset = [random_image(rng, 30, 4) for _ in range(5)]
    plain, shuffled = measure(dataset, [5, 20]), measure(dataset, [5, 20], order=[*order, *repeats])
    assert plain.compute() == shuffled.compute()
    for name, value in plain.ranks().items():
        np.testing.assert_array_equal(value, shuffled.ranks()[name])


def test_scores_of_float32_tensors_are_ordered_as_they_are():
    image = scored([[0, 0, 9, 9], [0, 0, 8, 9]], [0.5, 0.5], [[0, 0, 9, 9]])
    as_tensors = [torch.from_numpy(values) for values in image]
    metric = ProposalRecall([1])
    metric.update(0, as_tensors[0].float(), as_tensors[1].float(), *as_tensors[2:])
    assert metric.compute() == measure([image], [1]).compute()


def test_an_update_after_compute_is_seen_and_reset_forgets():
    metric = measure([scored(gt=[[0, 0, 9, 9]])], [1])
    assert metric.compute()["recall_1"] == 0.0
    metric.update(1, *scored([[0, 0, 9, 9]], [1], [[0, 0, 9, 9]]))
    assert metric.ranks()["index"].tolist() == [0, 1]
    assert metric.compute()["recall_1"] == 0.5
    metric.reset()
    metric.update(7, *scored([[0, 0, 9, 9]], [1], [[0, 0, 9, 9]]))
    assert metric.ranks()["index"].tolist() == [7]


@pytest.mark.parametrize("budgets", [[], [0], [-5], [2.5], [True]])
def test_impossible_budgets_are_refused(budgets):
    with pytest.raises(ValueError, match=r"recall\.budgets"):
        ProposalRecall(budgets)


def test_non_finite_proposals_and_shared_indices_are_refused():
    with pytest.raises(FloatingPointError, match="image 3"):
        ProposalRecall().update(3, *scored([[0, 0, np.nan, 9]], [1]))
    metric = measure([scored(gt=[[0, 0, 9, 9]])], [1])
    metric.update(0, *scored())
    with pytest.raises(ValueError, match="index 0"):
        metric.compute()


@given(sharp_boxes(6), sharp_boxes(6))
@settings(max_examples=50)
def test_iou_equals_pycocotools_bit_for_bit(a, b):
    a, b = (np.array(boxes, dtype=np.float64).reshape(-1, 4) for boxes in (a, b))
    if len(a) and len(b):
        in_xywh = [[xywh(box)["bbox"] for box in boxes] for boxes in (a, b)]
        expected = mask.iou(in_xywh[0], in_xywh[1], [0] * len(b))
        np.testing.assert_array_equal(iou_of(a[:, None], b), expected)
    assert iou_of(a[:, None], b).shape == (len(a), len(b))


@given(sharp_boxes(8), sharp_boxes(5), st.sampled_from([1e-30, 1e-3, 1.0, 1e4, 1e30]), st.sampled_from([0, 1, 1e4]))
@settings(max_examples=200)
def test_the_quick_look_in_float32_loses_no_pair(proposals, gt, scale, shift):
    """Far from the origin, where float32 has no digits left for a side, and beyond its range."""
    boxes, gt_boxes = (scale * (np.array(raw, dtype=np.float64).reshape(-1, 4) + shift) for raw in (proposals, gt))
    iou = iou_of(gt_boxes[:, None], boxes)
    box, proposal = np.nonzero(iou >= 0.5)
    found = pairs_above_half(boxes, gt_boxes)
    for ours, expected in zip(found, (proposal, box, iou[box, proposal]), strict=True):
        np.testing.assert_array_equal(ours, expected)


@given(st.lists(st.permutations(range(5)).flatmap(lambda p: st.integers(0, 5).map(lambda n: p[:n])), max_size=9))
@settings(max_examples=100)
def test_serving_all_at_once_equals_serving_in_turn(wishes):
    expected = np.full(5, -1)
    for proposer, wish in enumerate(wishes):
        free = [box for box in wish if expected[box] < 0]
        if free:
            expected[free[0]] = proposer
    proposer = np.repeat(np.arange(len(wishes)), [len(wish) for wish in wishes])
    box = np.array([box for wish in wishes for box in wish], dtype=np.int64)
    np.testing.assert_array_equal(serve_in_order(proposer, box, 5), expected)


SHARES = ([0, 2, 4, 0], [1, 3, 1], [])
"""Three processes: repeats within one and padding, and one that saw no image at all."""


def processes_dataset() -> list[Scored]:
    rng = np.random.default_rng(2)
    return [random_image(rng, 30, boxes) for boxes in (3, 1, 5, 2, 4)]


def score_share(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(SHARES)
    )
    metric = measure(processes_dataset(), [5, 20], order=SHARES[rank])
    torch.save([metric.compute(), metric.ranks()["rank"].tolist()], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.long
def test_three_processes_one_without_images_give_the_figures_of_one(tmp_path):
    spawn(score_share, args=(tmp_path,), nprocs=len(SHARES))
    alone = measure(processes_dataset(), [5, 20])
    for rank in range(len(SHARES)):
        assert torch.load(tmp_path / f"{rank}.pt") == [alone.compute(), alone.ranks()["rank"].tolist()]
