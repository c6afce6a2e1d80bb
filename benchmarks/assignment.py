"""Assignment of anchors to boxes, and the loss made of it: AnchorLab against torchvision's own methods.

Same anchors, same random boxes, one image; labels and matched boxes are compared before anything is timed.
The loss is the whole of what follows the head in a training step: assignment, sampling, targets, both losses
and their gradient in the head's outputs. The anchors exist already on both sides.

A: anchors of the image, G: its boxes, H, W: rows and columns of a level.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead, concat_box_prediction_layers
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN

from anchorlab.rpn.anchors import AnchorGrid, Anchors
from anchorlab.rpn.assigners.max_iou import OBJECT, MaxIoUAssigner
from anchorlab.rpn.backbones.backbones import Backbone
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead as Head
from anchorlab.rpn.losses.box import SmoothL1Loss
from anchorlab.rpn.network import LevelPredictions, Predictions, RegionProposalNetwork
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.rpn.samplers import BalancedSampler
from benchmarks.measure import Options, Row, interleaved, parse, peak_memory, report, set_threads

STRIDES = (4, 8, 16, 32, 64)
RATIOS = 3


@dataclass(frozen=True)
class Case:
    """An image of (height, width) with boxes, and anchors; the issue's aims for the assignment alone."""

    size: tuple[int, int]
    k: int
    num_boxes: int

    def __str__(self) -> str:
        return f"{self.size[0]} x {self.size[1]}, k = {self.k}, {self.num_boxes} boxes"

    @property
    def grids(self) -> list[tuple[int, int]]:
        return [(-(-self.size[0] // stride), -(-self.size[1] // stride)) for stride in STRIDES]


CASES = (Case((480, 640), 3, 15), Case((800, 1333), 9, 100))
QUICK_CASES = (Case((96, 128), 3, 4),)


class NoBackbone(Backbone):
    """What a network asks of a backbone before it sees an image."""

    channels, strides = 8, STRIDES


def random_boxes(case: Case) -> Tensor:
    """Boxes (G, 4) of sides from 12 to 400 pixels, inside the image where they fit."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.exp(torch.empty(case.num_boxes, 2).uniform_(2.5, 6, generator=generator))
    room = (torch.tensor([case.size[1], case.size[0]]) - sides).clamp(min=1)
    corners = torch.rand(case.num_boxes, 2, generator=generator) * room
    return torch.cat((corners, corners + sides), dim=1)


def our_network(k: int) -> RegionProposalNetwork:
    """AnchorLab's, with torchvision's rules of assignment, sampling and loss."""
    anchors = AnchorGrid(scale=8, scales_per_octave=k // RATIOS, strides=STRIDES)
    head = Head("sigmoid", in_channels=NoBackbone.channels, num_anchors=anchors.num_anchors)
    assigner = MaxIoUAssigner(low_quality_floor=None, ignore_iof=None)
    parts = (DeltaCoder(), assigner, BalancedSampler(), SmoothL1Loss(), ProposalSelector())
    return RegionProposalNetwork(NoBackbone(), anchors, head, *parts)


def their_network(k: int) -> TorchvisionRPN:
    return TorchvisionRPN(AnchorGenerator(), RPNHead(8, k), 0.7, 0.3, 256, 0.5, {}, {}, 0.7)


def assignments(case: Case) -> dict[str, Callable[[], Any]]:
    """Both sides' calls for the labels and matched boxes of one image."""
    boxes, ignore = random_boxes(case), torch.zeros(case.num_boxes, dtype=torch.bool)
    ours, theirs = our_network(case.k), their_network(case.k)
    anchors = ours.anchors(case.grids, case.size, "cpu")
    return {
        "ours": lambda: ours.assigner(anchors, boxes, ignore, case.size),
        "theirs": lambda: theirs.assign_targets_to_anchors([anchors.boxes], [{"boxes": boxes}]),
    }


def losses(case: Case) -> dict[str, Callable[[], Any]]:
    """Both sides' calls for the losses of one image and their gradient, from the same maps of the head."""
    boxes, ignore = random_boxes(case), torch.zeros(case.num_boxes, dtype=torch.bool)
    ours, theirs = our_network(case.k), their_network(case.k)
    anchors = ours.anchors(case.grids, case.size, "cpu")
    generator = torch.Generator().manual_seed(0)
    maps = [
        [torch.randn(1, k, *grid, generator=generator, requires_grad=True) for grid in case.grids]
        for k in (case.k, 4 * case.k)
    ]
    return {
        "ours": lambda: _backward(maps, _our_loss(ours, maps, anchors, boxes, ignore, case)),
        "theirs": lambda: _backward(maps, _their_loss(theirs, maps, anchors, boxes)),
    }


def check_equal(case: Case) -> int:
    """Number of anchors, after labels and matched boxes of both sides were found equal."""
    calls, boxes = assignments(case), random_boxes(case)
    ours, (labels, matched) = calls["ours"](), calls["theirs"]()
    assert torch.equal(ours.label.float(), labels[0])
    positive = ours.label == OBJECT
    assert torch.equal(boxes[ours.box_index[positive]], matched[0][positive])
    return len(ours.label)


def one_side(what: str, case: Case, side: str) -> Callable[[], Any]:
    """The call of one side, for a process of its own."""
    return {"assignment": assignments, "loss": losses}[what](case)[side]


def measure(what: str, case: Case, num_anchors: int, options: Options) -> Row:
    calls = {"assignment": assignments, "loss": losses}[what](case)
    timing = interleaved(calls, options.num_repeats(7))
    memory = {side: peak_memory(one_side, what, case, side).growth for side in calls}
    return {
        "what": what,
        "case": str(case),
        "anchors": num_anchors,
        "AnchorLab ms": timing["ours"].ms,
        "torchvision ms": timing["theirs"].ms,
        "times faster": timing["ours"].times_faster(timing["theirs"]),
        "in single rounds": timing["ours"].range_of_rounds(timing["theirs"]),
        "AnchorLab MiB": memory["ours"],
        "torchvision MiB": memory["theirs"],
        "times less memory": memory["theirs"] / max(memory["ours"], 1 / 1024),
    }


def _our_loss(
    network: RegionProposalNetwork,
    maps: list[list[Tensor]],
    anchors: Anchors,
    boxes: Tensor,
    ignore: Tensor,
    case: Case,
) -> Tensor:
    predictions = Predictions([LevelPredictions(*level) for level in zip(*maps, strict=True)], anchors)
    return network.loss(predictions, [boxes], [ignore], [case.size], [torch.Generator().manual_seed(0)]).total


def _their_loss(network: TorchvisionRPN, maps: list[list[Tensor]], anchors: Anchors, boxes: Tensor) -> Tensor:
    logits, deltas = concat_box_prediction_layers(*maps)
    labels, matched = network.assign_targets_to_anchors([anchors.boxes], [{"boxes": boxes}])
    targets = network.box_coder.encode(matched, [anchors.boxes])
    return sum(network.compute_loss(logits, deltas, labels, targets), torch.zeros(()))


def _backward(maps: list[list[Tensor]], loss: Tensor) -> None:
    for level in (*maps[0], *maps[1]):
        level.grad = None
    loss.backward()


def main(options: Options) -> None:
    set_threads(options.threads or 1)
    rows = []
    for case in QUICK_CASES if options.quick else CASES:
        num_anchors = check_equal(case)
        rows += [measure(what, case, num_anchors, options) for what in ("assignment", "loss")]
    claim = "Labels and matched boxes equal to torchvision's, from the anchors' rows and columns."
    setting = {"layout": "contiguous", "precision": "float32", "repeats": options.num_repeats(7)}
    notes = ["MiB: what one call adds to the peak memory of a process of its own."]
    report("assignment", claim, rows, setting, options, notes)


if __name__ == "__main__":
    main(parse(__doc__))
