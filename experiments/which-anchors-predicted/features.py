"""What is known of each anchor configuration before any training: features.csv beside this file.

python experiments/which-anchors-predicted/features.py <folder of the data sets> [set ...]

By the rules of the run's own assigner on its own training images, all of them: a few seconds for each configuration.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bank import ANCHORS, CONFIGS, HERE, RECIPES, SETS, Trial
from rich.progress import track

from anchorlab.analysis.coverage import cover
from anchorlab.analysis.ground_truth import BackboneGrids, GroundTruth, truth_of
from anchorlab.build import build, build_network
from anchorlab.cli.overrides import check_overrides
from anchorlab.data.module import DataModule
from anchorlab.rpn.assigners.max_iou import OBJECT
from anchorlab.rpn.boxes import paired_iou
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.training.preflight import with_fitted_anchors

COVERAGE = ("coverage", "possible_recall_50", "mean_best_iou")
ASSIGNED = ("positives", "starved", "positive_iou", "shift_spread", "size_spread", "size_offset")
"""Of the assigner: positives of a box; boxes with less than three; IoU of positives with their boxes; the deltas they
have to learn: standard deviation of t_x and t_y, of t_w and t_h, and distance of the mean t_w and t_h from 0."""


def main(root: Path, sets: list[str]) -> None:
    rows = [row for name in sets for row in of_set(name, root)]
    with (HERE / "features.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["data", "recipe", "anchors", "k", *COVERAGE, *ASSIGNED], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def of_set(name: str, root: Path) -> Iterator[dict[str, Any]]:
    configs = {
        (recipe, anchors): check_overrides("train", CONFIGS, Trial(name, recipe, anchors, 0).overrides(root))
        for recipe in RECIPES
        for anchors in ANCHORS
    }
    data: DataModule = build(next(iter(configs.values()))["data"], "data", augment=None, seed=0)
    data.setup()
    for (recipe, anchors), config in track(configs.items(), name, total=len(configs)):
        network = build_network(with_fitted_anchors(config, data))
        truth = truth_of(data, "train", BackboneGrids(network.backbone))
        values = {"k": max(network.anchors.num_anchors)} | covered(network, truth) | assigned(network, truth)
        shown = {key: round(value, 4) for key, value in values.items()}
        yield {"data": name, "recipe": recipe, "anchors": anchors, **shown}


def covered(network: RegionProposalNetwork, truth: GroundTruth) -> dict[str, float]:
    metrics = cover(truth, network.anchors, network.assigner).metrics
    return {name: metrics[name] for name in COVERAGE}


def assigned(network: RegionProposalNetwork, truth: GroundTruth) -> dict[str, float]:
    ious, deltas, positives = [], [], []
    for image in truth.image.unique().tolist():
        height, width = truth.padded[image].tolist()
        grid = network.anchors([(int(r), int(c)) for r, c in truth.grids[image]], (height, width), "cpu")
        boxes, size = truth.boxes[truth.image == image], truth.sizes[image].tolist()
        found = network.assigner(grid, boxes, torch.zeros(len(boxes), dtype=torch.bool), (size[0], size[1]))
        positive = found.label == OBJECT
        wanted = boxes[found.box_index[positive]]
        ious.append(paired_iou(grid.boxes[positive], wanted))
        deltas.append(DeltaCoder().encode(grid.boxes[positive], wanted))
        positives.append(torch.bincount(found.box_index[positive], minlength=len(boxes)))
    delta, positive = torch.cat(deltas), torch.cat(positives).float()
    shift, size = delta[:, :2], delta[:, 2:]
    values = (
        *(positive.mean(), (positive < 3).float().mean(), torch.cat(ious).mean()),
        *(shift.std(0).mean(), size.std(0).mean(), size.mean(0).abs().mean()),
    )
    return dict(zip(ASSIGNED, map(float, values), strict=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(SETS))
