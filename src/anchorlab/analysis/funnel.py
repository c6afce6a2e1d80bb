"""Recall funnel: the best IoU of every box at each stage from the anchors to the best N proposals.

    anchors -> decoded -> top k before NMS -> (second look ->) NMS -> best N

An object counts as found at a stage when any of the stage's boxes overlaps it enough; one may serve two objects. Recall
proper (`metrics/recall.py`) matches one to one and is a little lower than the last stage.

A: anchors of one image, G: objects of one image, R: objects of all images, P: proposals of one image.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anchorlab.metrics.from_ranks import THRESHOLDS
from anchorlab.rpn.boxes import clip, pairwise_iou
from anchorlab.rpn.network import Predictions, RegionProposalNetwork
from anchorlab.rpn.variants import RefinedRPN

# Pairs of a box and an object that are compared at once.
MAX_IOUS = 1 << 22


@dataclass(frozen=True, eq=False)
class Funnel:
    """stages: names in order; best: (stages, R) best IoU of each object among the boxes of a stage."""

    stages: tuple[str, ...]
    best: np.ndarray

    def rows(self) -> list[dict[str, Any]]:
        """For each stage its name, recall_50, recall_70 and AR (mean over IoU 0.50:0.05:0.95); None without objects."""
        return [{"stage": name} | _recalls(best) for name, best in zip(self.stages, self.best, strict=True)]

    def losses(self) -> list[tuple[str, float]]:
        """By how much AR falls at each stage from "decoded" on, the largest loss first."""
        average = [_recalls(best)["AR"] or 0.0 for best in self.best[1:]]
        drops = [
            (name, before - after) for name, before, after in zip(self.stages[2:], average, average[1:], strict=False)
        ]
        return sorted(drops, key=lambda drop: -drop[1])


def stage_names(network: RegionProposalNetwork, budgets: Sequence[int]) -> tuple[str, ...]:
    before = f"top {network.selector.pre_nms_top_n} per level"
    again = ("second look",) if isinstance(network, RefinedRPN) else ()
    return ("anchors", "decoded", before, *again, network.selector.selection, *(f"best {n}" for n in budgets))


def best_by_stage(
    network: RegionProposalNetwork,
    predictions: Predictions,
    image: int,
    boxes: Tensor,
    size: tuple[int, int],
    budgets: Sequence[int],
) -> Tensor:
    """(stages, G) best IoU of one image's objects (G, 4), in pixels of the network's input; `size`: (height, width).

    budgets: descending numbers of proposals. Ignored regions are left out by the caller.
    """
    anchors, selector = predictions.anchors_of(image), network.selector
    boxes = boxes.float()
    candidates = network.candidates(predictions, image, size)
    everything = copy.copy(selector)
    everything.post_nms_top_n = candidates[-1].boxes.shape[1]
    kept = everything.select(candidates[-1], 0, size).boxes
    decoded = network.coder.decode(anchors.boxes, predictions.deltas[image])
    before = [clip(stage.boxes[0], size) for stage in candidates]
    stages = [clip(decoded, size), *before, kept, *(kept[:n] for n in budgets)]
    return torch.stack([anchors.lattice.best_iou(boxes), *(best_iou(stage, boxes) for stage in stages)])


def best_iou(proposals: Tensor, boxes: Tensor) -> Tensor:
    """(G,) best IoU of boxes (G, 4) with any of the proposals (P, 4); 0 where there are none."""
    best = boxes.new_zeros(len(boxes))
    if len(boxes) == 0 or len(proposals) == 0:
        return best
    for part in proposals.split(max(1, MAX_IOUS // len(boxes))):
        best = best.maximum(pairwise_iou(boxes, part).nan_to_num().amax(dim=1))
    return best


def _recalls(best: np.ndarray) -> dict[str, float | None]:
    if len(best) == 0:
        return {"recall_50": None, "recall_70": None, "AR": None}
    return {
        "recall_50": float((best >= 0.5).mean()),
        "recall_70": float((best >= 0.7).mean()),
        "AR": float((best >= THRESHOLDS[:, None]).mean()),
    }
