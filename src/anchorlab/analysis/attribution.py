"""Attribution of recall to anchor shapes: each shape's share of a trained network's positives, proposals and objects
found.

It also estimates AR without each shape: its anchors are removed before the top k and NMS, others move up, and AR
is computed again. Nothing is retrained, so this is a lower bound of what a network without the shape reaches.

S: shapes (the anchors of one location on every level), P: proposals of one image, G: its boxes, T: IoU thresholds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anchorlab.analysis.funnel import Funnel, best_by_stage, stage_names
from anchorlab.data.batch import Batch, Target
from anchorlab.metrics.from_ranks import UNMATCHED
from anchorlab.metrics.recall import counted_by_area, match
from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.assigners.max_iou import OBJECT
from anchorlab.rpn.network import Predictions, RegionProposalNetwork
from anchorlab.rpn.proposals.nms import Proposals

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ShapeShare:
    """One anchor shape: how much of what happens is due to it. Shares are of all shapes together, 0 where all are 0.

    positives: of the anchors that the assigner calls objects; proposals: of the `budget` best of each image; matched:
    of the boxes found by those, at all IoUs from 0.50 to 0.95; AR_without: AR@budget of the same network without it.
    """

    level: int
    stride: int
    width: float
    height: float
    positives: float
    proposals: float
    matched: float
    AR_without: float

    @property
    def name(self) -> str:
        return f"{self.width:.0f} x {self.height:.0f} at stride {self.stride}"


@dataclass(frozen=True, eq=False)
class AnchorReport:
    """Funnel and attribution of one network on some images; AR: its AR@budget on them, -1 without boxes."""

    images: int
    budget: int
    AR: float
    funnel: Funnel
    shapes: list[ShapeShare]

    def dead(self) -> list[str]:
        """The shapes that found no box, by name."""
        return [shape.name for shape in self.shapes if shape.matched == 0]

    def values(self) -> dict[str, Any]:
        """What anchors.json holds.

        schema_version, images, budget, AR; funnel: a list of {stage, recall_50, recall_70, AR}; shapes: a list of the
        fields of `ShapeShare`, finest level first; dead: names of shapes that found no box.
        """
        return {
            "schema_version": SCHEMA_VERSION,
            "images": self.images,
            "budget": self.budget,
            "AR": self.AR,
            "funnel": self.funnel.rows(),
            "shapes": [asdict(shape) for shape in self.shapes],
            "dead": self.dead(),
        }


def anchor_report(
    network: RegionProposalNetwork, batches: Iterable[tuple[Predictions, Batch]], budget: int = 100
) -> AnchorReport:
    """The report over batches that were not augmented, each with the network's predictions for it.

    budget: proposals per image that count, at most `proposals.post_nms_top_n`.

    Raises FloatingPointError where predictions are NaN or infinite.
    """
    tally = _Tally(network, min(budget, network.selector.post_nms_top_n))
    for predictions, batch in batches:
        tally.add(predictions, batch)
    return tally.report()


class _Tally:
    """Counts over images."""

    def __init__(self, network: RegionProposalNetwork, budget: int) -> None:
        self.network, self.budget = network, budget
        selector = network.selector
        self.budgets = sorted({n for n in (1000, 300, budget) if budget <= n <= selector.post_nms_top_n}, reverse=True)
        self.k = network.anchors.num_anchors
        count = sum(self.k)
        self.first = np.cumsum([0, *self.k])
        self.images = 0
        self.positives, self.proposals, self.matched = (np.zeros(count, dtype=np.int64) for _ in range(3))
        self.found = np.zeros(count + 1)  # boxes found over all thresholds: by all shapes, then without each
        self.counted = 0
        self.best: list[Tensor] = []

    @torch.no_grad()
    def add(self, predictions: Predictions, batch: Batch) -> None:
        assert batch.targets is not None, "attribution is counted on batches that were not augmented"
        for row, target in enumerate(batch.targets):
            boxes, ignore = batch.boxes[row].to(predictions.anchors.boxes.device), batch.ignore[row]
            height, width = batch.sizes[row].tolist()
            objects = boxes[~ignore.to(boxes.device)]
            best = best_by_stage(self.network, predictions, row, objects, (height, width), self.budgets)
            self.best.append(best.cpu())
            anchors, ignore = predictions.anchors_of(row), ignore.to(boxes.device)
            assignment = self.network.assigner(anchors, boxes, ignore, (height, width))
            self.positives += self._by_shape((assignment.label == OBJECT).nonzero().squeeze(1), predictions.anchors)
            self._add_proposals(predictions, batch, row, target, (height, width))
            self.images += 1

    def report(self) -> AnchorReport:
        average = self.found / self.counted if self.counted else np.full_like(self.found, -1.0)
        anchors = self.network.anchors
        names = stage_names(self.network, self.budgets)
        best = torch.cat(self.best, dim=1).numpy() if self.best else np.zeros((len(names), 0))
        columns = [_shares(counts).tolist() for counts in (self.positives, self.proposals, self.matched)]
        columns.append(average[1:].tolist())
        sides = [(level, *shape) for level, shapes in enumerate(anchors.shapes) for shape in shapes.tolist()]
        shapes = [
            ShapeShare(level, anchors.strides[level], width, height, *figures)
            for (level, width, height), *figures in zip(sides, *columns, strict=True)
        ]
        return AnchorReport(self.images, self.budget, float(average[0]), Funnel(names, best), shapes)

    def _add_proposals(
        self, predictions: Predictions, batch: Batch, row: int, target: Target, size: tuple[int, int]
    ) -> None:
        kept = [self._of_level(predictions, row, level, size) for level in range(len(self.k))]
        ranks, proposals = self._ranks(kept, batch, row, target)
        self.proposals += self._by_shape(proposals.anchor, predictions.anchors)
        rank = ranks[:, :, 0]
        self.matched += self._by_shape(proposals.anchor.cpu()[rank[rank != UNMATCHED]], predictions.anchors)
        self.found[0] += (ranks[:, :, 0] != UNMATCHED).mean(axis=1).sum()
        self.counted += int(target.counted.sum())
        for level, k in enumerate(self.k):
            for j in range(k):
                others = [*kept[:level], self._of_level(predictions, row, level, size, without=j), *kept[level + 1 :]]
                ranks, _ = self._ranks(others, batch, row, target)
                self.found[1 + self.first[level] + j] += (ranks[:, :, 0] != UNMATCHED).mean(axis=1).sum()

    def _of_level(
        self, predictions: Predictions, row: int, level: int, size: tuple[int, int], without: int | None = None
    ) -> Proposals:
        """The proposals of one level alone, best first, perhaps without one of its shapes.

        NMS knows no other level. Tiers count and boxes vote over all of them: here each level does so by itself, and of
        two stages it is the first.
        """
        anchors = predictions.anchors_of(row)
        start, count = sum(anchors.num_per_level[:level]), anchors.num_per_level[level]
        number = torch.arange(start, start + count, device=anchors.boxes.device)
        if without is not None:
            number = number[(number - start) % self.k[level] != without]
        alone = Anchors(anchors.boxes[number], (), (len(number),))
        logits, deltas = predictions.logits[row, number], predictions.deltas[row, number]
        selector = self.network.selector.of_level(level)
        found = selector.select(selector.candidates(logits[None], deltas[None], alone, self.network.coder), 0, size)
        return found._replace(anchor=number[found.anchor])

    def _ranks(self, kept: Sequence[Proposals], batch: Batch, row: int, target: Target) -> tuple[np.ndarray, Proposals]:
        """The ranks (G, T, areas) at which boxes are found by the levels' proposals together, and the best of those."""
        together = Proposals(*(torch.cat(field) for field in zip(*kept, strict=True)))
        order = together.scores.sort(descending=True, stable=True).indices[: self.budget]
        best = Proposals(*(field[order] for field in together))
        counted = counted_by_area(target.area.numpy(), (~target.counted).numpy())
        boxes = batch.to_original(row, best.boxes).numpy()
        scores = best.scores.double().cpu().numpy()
        return match(boxes, scores, target.boxes.numpy(), counted, self.budget), best

    def _by_shape(self, anchor: Tensor, anchors: Anchors) -> np.ndarray:
        """How many of the numbered anchors (n,) have each shape (S,)."""
        bounds = torch.tensor(anchors.num_per_level).cumsum(0)
        anchor = anchor.cpu()
        level = torch.bucketize(anchor, bounds, right=True)
        k, first = torch.tensor(self.k), torch.from_numpy(self.first)
        start = bounds - torch.tensor(anchors.num_per_level)
        shape = first[level] + (anchor - start[level]) % k[level]
        return torch.bincount(shape, minlength=int(self.first[-1])).numpy()


def _shares(counts: np.ndarray) -> np.ndarray:
    return counts / max(int(counts.sum()), 1)
