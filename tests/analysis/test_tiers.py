"""The thresholds that are found are those with which more is found; by hand on two kinds of images."""

from typing import Any

import numpy as np
import pytest
import torch

from anchorlab.analysis.tiers import THRESHOLDS, Image, best_thresholds
from anchorlab.metrics.from_ranks import recall_from_ranks
from anchorlab.metrics.recall import match
from anchorlab.rpn.proposals.nms import Candidates
from anchorlab.rpn.proposals.tiered_nms import TieredNMSSelector

OBJECT = [0.0, 0, 100, 100]
SIZE = (400, 400)


def image(boxes: Any, objects: Any, ignore: Any = None) -> Image:
    """Candidates of one level, the best first."""
    boxes = torch.tensor(boxes, dtype=torch.float32)
    scores = torch.linspace(0.9, 0.1, len(boxes))
    count = torch.arange(len(boxes))
    candidates = Candidates(boxes[None], scores[None], torch.zeros_like(count), count[None])
    objects = np.array(objects, np.float64)
    return Image(SIZE, candidates, objects, np.zeros(len(objects), bool) if ignore is None else np.array(ignore))


def moved(*shifts: float) -> list[list[float]]:
    return [[shift, 0, 100 + shift, 100] for shift in shifts]


def test_where_the_best_box_ranks_behind_a_near_one_second_tries_are_let_in():
    few = image(moved(14, 0), [OBJECT])  # IoU of the two 0.754: the second is the object itself
    assert best_thresholds([few], TieredNMSSelector([(10, 0.5)])) == [0.8]


def test_what_one_image_of_many_gains_is_chance():
    gains = image(moved(14, 0), [OBJECT])
    same = image([OBJECT], [OBJECT])
    assert best_thresholds([gains, same, same], TieredNMSSelector([(10, 0.5)])) == [0.5]
    assert best_thresholds([*[gains] * 5, same], TieredNMSSelector([(10, 0.5)])) == [0.8]


def test_where_tries_at_one_object_hide_another_they_are_left_out():
    crowd = image([*moved(*range(0, 20, 2)), [200, 200, 300, 300]], [OBJECT, [200, 200, 300, 300]])
    assert best_thresholds([crowd], TieredNMSSelector([(2, 0.95)])) == [0.5]


@pytest.mark.parametrize(("shift", "found"), [(14, 0.5), (20, 0.7)])  # IoU 0.754 and 0.667 with the object
def test_the_last_of_several_late_tiers_stays_for_what_none_covers_yet(shift, found):
    """The object is the 102nd candidate, behind one near it: a second try that only the last tier could let in."""
    clutter = [[x, y, x + 10, y + 10] for x in range(150, 350, 20) for y in range(150, 350, 20)]
    late = image([*clutter, *moved(shift, 0)], [OBJECT])
    assert best_thresholds([late], TieredNMSSelector([(1, 0.5), (101, 0.5), (1000, 0.5)])) == [0.5, 0.5, found]
    assert best_thresholds([late], TieredNMSSelector([(1, 0.5), (1000, 0.5)])) == [0.5, 0.8 if shift == 14 else 0.7]


def test_what_finds_no_more_stays_as_it_was():
    one = image([OBJECT], [OBJECT])
    tiers = [(10, 0.33), (100, 0.66), (1000, 0.99)]
    assert best_thresholds([one], TieredNMSSelector(tiers)) == [0.33, 0.66, 0.99]
    nothing = image(moved(14, 0), [OBJECT], ignore=[True])
    assert best_thresholds([nothing], TieredNMSSelector([(10, 0.5)])) == [0.5]


@pytest.mark.parametrize("seed", range(3))
def test_more_is_found_and_a_second_search_finds_no_better(seed):
    rng = np.random.default_rng(seed)

    def drawn(num_objects: int) -> Image:
        corner = rng.uniform(0, 250, (num_objects, 2))
        objects = np.hstack((corner, corner + 120))
        tries = objects[rng.integers(num_objects, size=400)] + rng.normal(0, 9, (400, 4))
        return image(tries, objects)

    images = [drawn(count) for count in (1, 2, 3, 4) * 4]
    tiers = [(20, 0.3), (100, 0.3), (300, 0.3)]
    found = best_thresholds(images, TieredNMSSelector(tiers))
    again = [(count, iou) for (count, _), iou in zip(tiers, found, strict=True)]
    assert set(found) <= {0.3, *THRESHOLDS}
    assert best_thresholds(images, TieredNMSSelector(again)) == found
    assert ar(images, again) > ar(images, tiers) + 0.02


def ar(images: list[Image], tiers: Any) -> float:
    """The sum of AR@100 and AR@300."""
    ranks = []
    for one in images:
        proposals = TieredNMSSelector(tiers).select(one.candidates, 0, one.size)
        boxes, scores = (values.double().numpy() for values in (proposals.boxes, proposals.scores))
        ranks.append(match(boxes, scores, one.objects, np.ones((len(one.objects), 1), bool), limit=300))
    rank = np.concatenate(ranks)
    return float(recall_from_ranks(rank, np.ones((len(rank), 1), bool), [100, 300]).mean(axis=1).sum())
