"""Funnel and attribution against other ways to the same numbers: the whole selector, the metric, every pair."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from anchorlab.analysis.attribution import anchor_report
from anchorlab.analysis.funnel import Funnel, best_by_stage, best_iou, stage_names
from anchorlab.build import build_network
from anchorlab.cli.overrides import check_overrides
from anchorlab.data.batch import Batch, Item, Target, collate
from anchorlab.data.sample import Sample
from anchorlab.metrics.recall import ProposalRecall
from anchorlab.plots.anchor_report import funnel_table, in_words, table_rows
from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.assigners.max_iou import OBJECT
from anchorlab.rpn.boxes import clip, pairwise_iou
from anchorlab.rpn.network import LevelPredictions, Predictions, RegionProposalNetwork

CONFIGS = Path(__file__).parents[2] / "conf"
BUDGET = 20
SHAPES = "anchor.shapes=[[[20,12],[14,18]],[[30,30]],[[40,70],[64,40],[300,10]]]"


@cache
def network() -> RegionProposalNetwork:
    """Two, one and three shapes on the levels of the tiny backbone; the last lies beyond every image."""
    overrides = ["anchor.scale=null", SHAPES, "proposals.pre_nms_top_n=40", "proposals.post_nms_top_n=30"]
    return build_network(check_overrides("train", CONFIGS, overrides))


def item(index: int, boxes: list[list[float]], ignore: list[bool]) -> Item:
    """An image of 64 x 96, shown to the network at half of the size it was annotated in."""
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    flags, area = np.array(ignore, dtype=bool), (array[:, 2:] - array[:, :2]).prod(axis=1)
    image = np.zeros((64, 96, 3), dtype=np.uint8)
    sample = Sample(image, array, area, np.zeros(len(array), dtype=np.int64), flags, index)
    target = Target(
        torch.from_numpy(2.0 * array.astype(np.float64)),
        torch.from_numpy(4.0 * area),
        torch.from_numpy(flags),
        torch.from_numpy(np.zeros_like(flags)),
    )
    return Item(sample, (0.5, 0.5), index, target)


def scene(seed: int = 0, count: int = 3) -> tuple[Predictions, Batch]:
    """Random boxes; deltas are random, scores rise with an anchor's IoU and are random beside."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for index in range(count):
        corner = torch.rand(4, 2, generator=generator) * torch.tensor([60.0, 30.0])
        boxes = torch.cat((corner, corner + 8 + 26 * torch.rand(4, 2, generator=generator)), dim=1)
        items.append(item(index, boxes.tolist(), [False, False, index == 1, False]))
    levels, grids, batch = [], [(8, 12), (4, 6), (2, 3)], collate(items)
    anchors = network().anchors(grids, (64, 96), "cpu")
    iou = torch.stack([pairwise_iou(anchors.boxes, boxes).amax(dim=1) for boxes in batch.boxes])
    for k, (rows, columns), part in zip(
        network().anchors.num_anchors, grids, iou.split(anchors.num_per_level, dim=1), strict=True
    ):
        good = part.reshape(count, rows, columns, k).permute(0, 3, 1, 2)
        logits = 6 * good + torch.randn(count, k, rows, columns, generator=generator)
        levels.append(LevelPredictions(logits, 0.1 * torch.randn(count, 4 * k, rows, columns, generator=generator)))
    return Predictions(levels, anchors), batch


def average_recall(predictions: Predictions, batch: Batch, keep: torch.Tensor, num_per_level: tuple[int, ...]) -> float:
    """AR@BUDGET of the network on some of its anchors, by its whole selector and the metric."""
    metric, net = ProposalRecall([BUDGET]), network()
    anchors = Anchors(predictions.anchors.boxes[keep], (), num_per_level)
    sizes = [(height, width) for height, width in batch.sizes.tolist()]
    found = net.selector(predictions.logits[:, keep], predictions.deltas[:, keep], anchors, net.coder, sizes)
    assert batch.targets is not None
    for row, target in enumerate(batch.targets):
        metric.update(row, batch.to_original(row, found[row].boxes), found[row].scores, *target)
    return metric.compute()[f"AR_{BUDGET}"]


@pytest.mark.parametrize("seed", [0, 1])
def test_ar_with_and_without_each_shape_is_that_of_selector_and_metric(seed):
    predictions, batch = scene(seed)
    report = anchor_report(network(), [(predictions, batch)], BUDGET)
    count, num_per_level = len(predictions.anchors.boxes), predictions.anchors.num_per_level
    everything = torch.ones(count, dtype=torch.bool)
    whole = average_recall(predictions, batch, everything, num_per_level)
    ours = report.AR
    assert ours == pytest.approx(whole, abs=1e-12)
    assert whole > 0
    at = 0
    for level, k in enumerate(network().anchors.num_anchors):
        start = sum(num_per_level[:level])
        for j in range(k):
            keep = everything.clone()
            keep[start + j : start + num_per_level[level] : k] = False
            left = tuple(n - n // k * (i == level) for i, n in enumerate(num_per_level))
            expected = average_recall(predictions, batch, keep, left)
            assert report.shapes[at].AR_without == pytest.approx(expected, abs=1e-12)
            at += 1
    assert at == len(report.shapes) == 6
    assert len({shape.AR_without for shape in report.shapes}) > 1


def test_shares_are_of_what_there_is():
    predictions, batch = scene()
    report = anchor_report(network(), [(predictions, batch)], BUDGET)
    for name in ("positives", "proposals", "matched"):
        assert sum(getattr(shape, name) for shape in report.shapes) == pytest.approx(1.0)
    positives = np.zeros(6)
    shape_of = torch.cat(
        [
            first + torch.arange(n) % k
            for first, n, k in zip((0, 2, 3), predictions.anchors.num_per_level, (2, 1, 3), strict=True)
        ]
    )
    for boxes, ignore in zip(batch.boxes, batch.ignore, strict=True):
        label = network().assigner(predictions.anchors, boxes, ignore, (64, 96)).label
        positives += torch.bincount(shape_of[label == OBJECT], minlength=6).numpy()
    assert [shape.positives for shape in report.shapes] == pytest.approx(positives / positives.sum())


def test_images_one_by_one_give_what_a_batch_gives():
    predictions, batch = scene()
    parts = [scene_of(predictions, batch, row) for row in range(3)]
    whole, single = (anchor_report(network(), some, BUDGET) for some in ([(predictions, batch)], parts))
    assert whole.values() == single.values()
    assert whole.images == 3


def scene_of(predictions: Predictions, batch: Batch, row: int) -> tuple[Predictions, Batch]:
    levels = [LevelPredictions(*(part[row : row + 1] for part in level)) for level in predictions.levels]
    assert batch.targets is not None
    boxes, ignore = batch.boxes[row].tolist(), batch.ignore[row].tolist()
    return Predictions(levels, predictions.anchors), collate([item(row, boxes, ignore)])


def test_stages_equal_every_pair_of_boxes():
    predictions, batch = scene()
    net, boxes = network(), batch.boxes[0]
    found = best_by_stage(net, predictions, 0, boxes, (64, 96), [25, 10])
    proposals = net.propose(predictions, batch.sizes)[0].boxes
    decoded = clip(net.coder.decode(predictions.anchors.boxes, predictions.deltas[0]), (64, 96))
    for stage, candidates in ((0, predictions.anchors.boxes), (1, decoded), (4, proposals[:25]), (5, proposals[:10])):
        assert torch.equal(found[stage], pairwise_iou(boxes, candidates).nan_to_num().amax(dim=1))
    assert (found[1:-1] >= found[2:]).all()
    assert stage_names(net, [25, 10]) == (
        "anchors",
        "decoded",
        "top 40 per level",
        "NMS 0.7",
        "best 25",
        "best 10",
    )


def test_a_box_lost_at_the_top_k_is_seen_to_be_lost_there():
    """One anchor decodes to the box exactly, but its score is the lowest of all."""
    predictions, batch = scene(count=1)
    net = network()
    box = batch.boxes[0][:1]
    exact = net.coder.encode(predictions.anchors.boxes[:1], box)
    logits, deltas = predictions.levels[0].logits.clone(), predictions.levels[0].deltas.clone()
    logits[0, 0, 0, 0], deltas[0, :4, 0, 0] = -50.0, exact[0]
    changed = Predictions([LevelPredictions(logits, deltas), *predictions.levels[1:]], predictions.anchors)
    best = best_by_stage(net, changed, 0, box, (64, 96), [20])
    funnel = Funnel(stage_names(net, [20]), best.numpy())
    assert best[1].item() == pytest.approx(1.0, abs=1e-5)
    assert best[2].item() < 0.95
    assert funnel.losses()[0][0] == "top 40 per level"


def test_dead_shapes_are_named_and_everything_can_be_shown():
    report = anchor_report(network(), [scene()], BUDGET)
    assert "300 x 10 at stride 32" in report.dead()
    assert any("300 x 10" in line for line in in_words(report))
    columns, rows = table_rows(report)
    assert [len(row) for row in rows] == [len(columns)] * 6
    assert funnel_table(report).row_count == len(report.funnel.stages)
    assert set(report.values()) == {"schema_version", "images", "budget", "AR", "funnel", "shapes", "dead"}


def test_images_without_boxes():
    predictions, _ = scene(count=1)
    report = anchor_report(network(), [(predictions, collate([item(0, [], [])]))], BUDGET)
    assert report.AR == -1.0
    assert report.funnel.rows()[0] == {"stage": "anchors", "recall_50": None, "recall_70": None, "AR": None}
    assert all(shape.matched == 0 for shape in report.shapes)
    assert anchor_report(network(), [], BUDGET).images == 0


def test_without_proposals_nothing_is_found():
    assert best_iou(torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 9.0, 9.0]])).tolist() == [0.0]
