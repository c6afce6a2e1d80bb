"""Assignment of anchors to boxes: AnchorLab's lattice against torchvision's `assign_targets_to_anchors`.

Same anchors, same boxes, float32, one image; labels and matched boxes are compared before anything is timed.
Memory is the growth of the process's peak while one call runs, each in a process of its own.
"""

import multiprocessing
import resource
from collections.abc import Callable
from typing import Any

import torch
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead

from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners import OBJECT, MaxIoUAssigner
from benchmarks.measure import interleaved, report

STRIDES = (4, 8, 16, 32, 64)
CASES = {
    "480 x 640, k = 3, 15 boxes": ((480, 640), 1, 15),
    "800 x 1333, k = 9, 100 boxes": ((800, 1333), 3, 100),
}


def problem(size: tuple[int, int], octaves: int, num_boxes: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Our call and theirs for one image of random boxes."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    sides = torch.exp(torch.empty(num_boxes, 2).uniform_(2.5, 6, generator=generator))
    corners = torch.rand(num_boxes, 2, generator=generator) * (torch.tensor([width, height]) - sides).clamp(min=1)
    boxes = torch.cat((corners, corners + sides), dim=1)
    grid = AnchorGrid(scale=8, scales_per_octave=octaves, strides=STRIDES)
    anchors = grid([(-(-height // stride), -(-width // stride)) for stride in STRIDES], size, "cpu")
    ours = MaxIoUAssigner(low_quality_floor=None, ignore_iof=None)
    k = grid.num_anchors[0]
    theirs = RegionProposalNetwork(AnchorGenerator(), RPNHead(8, k), 0.7, 0.3, 256, 0.5, {}, {}, 0.7)
    ignore = torch.zeros(num_boxes, dtype=torch.bool)
    return (
        lambda: (ours(anchors, boxes, ignore, size), boxes, anchors),
        lambda: theirs.assign_targets_to_anchors([anchors.boxes], [{"boxes": boxes}]),
    )


def check_equal(ours: Callable[[], Any], theirs: Callable[[], Any]) -> int:
    """Number of anchors, after labels and matched boxes were found equal."""
    assignment, boxes, anchors = ours()
    labels, matched = theirs()
    assert torch.equal(assignment.label.float(), labels[0])
    positive = assignment.label == OBJECT
    assert torch.equal(boxes[assignment.box_index[positive]], matched[0][positive])
    return len(anchors.boxes)


def peak_growth_mib(case: str, which: int) -> float:
    """MiB by which one call raises the peak memory of a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (case, which))


def _growth(case: str, which: int) -> float:
    torch.set_num_threads(1)
    calls = problem(*CASES[case])
    calls[0]()[2].boxes.sum()  # anchors and lattice exist already when an image is assigned
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    calls[which]()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for case, settings in CASES.items():
        ours, theirs = problem(*settings)
        num_anchors = check_equal(ours, theirs)
        seconds = interleaved({"ours": ours, "theirs": theirs}, repeats=7)
        rows.append(
            {
                "case": case,
                "anchors": num_anchors,
                "AnchorLab ms": 1000 * seconds["ours"],
                "torchvision ms": 1000 * seconds["theirs"],
                "times faster": seconds["theirs"] / seconds["ours"],
                "AnchorLab MiB": peak_growth_mib(case, 0),
                "torchvision MiB": peak_growth_mib(case, 1),
            }
        )
    report("assignment", "Assignment, identical outcome, one thread, float32", rows)


if __name__ == "__main__":
    main()
