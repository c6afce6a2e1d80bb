"""Means and weights of deltas: what the positives of training boxes have after them, and when nothing is fitted."""

import pytest
import torch

from anchorlab.analysis.deltas import means_and_weights
from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.atss import ATSSAssigner
from anchorlab.rpn.assigners.max_iou import OBJECT
from anchorlab.rpn.coders import DeltaCoder

SIDE, CELLS = 128, [(16, 16), (8, 8)]
STRIDES = (8, 16)


def truth(images: int, width: float, height: float, each: int = 4) -> GroundTruth:
    """Boxes of about one size, anywhere on square images."""
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(images * each, 2, generator=random) * (SIDE - 2 * max(width, height))
    stretch = torch.exp(0.1 * torch.randn(images * each, 2, generator=random))
    boxes = torch.cat((corner, corner + torch.tensor([width, height]) * stretch), dim=1)
    size = torch.tensor([[SIDE, SIDE]]).expand(images, 2)
    image = torch.arange(images).repeat_interleave(each)
    return GroundTruth(boxes, image, size, size, torch.tensor([CELLS]).expand(images, 2, 2))


def deltas(boxes: GroundTruth, anchors: AnchorGrid, coder: DeltaCoder) -> torch.Tensor:
    grid, found = anchors(CELLS, (SIDE, SIDE), "cpu"), []
    for image in range(boxes.num_images):
        own = boxes.boxes[boxes.image == image]
        assigned = ATSSAssigner()(grid, own, torch.zeros(len(own), dtype=torch.bool), (SIDE, SIDE))
        positive = assigned.label == OBJECT
        found.append(coder.encode(grid.boxes[positive], own[assigned.box_index[positive]]))
    return torch.cat(found)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_deltas_of_anchors_larger_than_the_objects_get_mean_0_and_the_usual_spread(scale):
    boxes, anchors = truth(20, 12, 18), AnchorGrid(None, [1], scale=scale, strides=STRIDES)
    means, weights = means_and_weights(boxes, anchors, ATSSAssigner(), images=20)
    normal = deltas(boxes, anchors, DeltaCoder(weights, means=means))
    assert normal.mean(0).abs().max() < 0.02 * max(weights)  # means are rounded to two digits
    fitted = torch.tensor(weights) > 1
    assert normal.std(0)[fitted] == pytest.approx(0.2, rel=0.02)
    assert (normal.std(0)[~fitted] >= 0.2 - 1e-3).all()
    assert means[2] == pytest.approx(deltas(boxes, anchors, DeltaCoder())[:, 2].mean().item(), abs=0.006)


def test_weights_grow_with_the_anchors():
    boxes = truth(20, 12, 18)
    found = [
        means_and_weights(boxes, AnchorGrid(None, [1], scale=scale, strides=STRIDES), ATSSAssigner(), 20)[1]
        for scale in (2, 3, 4)
    ]
    assert found[0][0] < found[1][0] < found[2][0]


def test_some_images_are_enough_and_the_same_ones_each_time():
    boxes, anchors = truth(200, 12, 18), AnchorGrid(None, [1], scale=4, strides=STRIDES)
    few = means_and_weights(boxes, anchors, ATSSAssigner(), images=32)
    assert few == means_and_weights(boxes, anchors, ATSSAssigner(), images=32)
    everything = means_and_weights(boxes, anchors, ATSSAssigner(), images=200)
    assert few[0] == pytest.approx(everything[0], abs=0.05)
    assert few[1] == pytest.approx(everything[1], rel=0.1)


@pytest.mark.parametrize("images", [0, 1])
def test_too_few_positives_fit_nothing(images):
    boxes = truth(images, 12, 18, each=1)
    anchors = AnchorGrid(None, [1], scale=4, strides=STRIDES)
    assert means_and_weights(boxes, anchors, ATSSAssigner(), images=64) == ([0.0] * 4, [1.0] * 4)
