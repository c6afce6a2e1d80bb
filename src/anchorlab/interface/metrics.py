"""Metrics from Python: recall of proposals that lie in arrays, by the metric that a training's validation uses."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from anchorlab import notebook
from anchorlab.metrics.from_ranks import BUDGETS, KINDS
from anchorlab.metrics.recall import ProposalRecall


class Metrics(dict[str, float]):
    """Metrics by name: `recall_100` (IoU 0.5), `recall_iou70_100`, `AR_100`, `AR_s_100`, ... at each number of
    proposals; -1 where there is no object to find."""

    def __init__(self, metrics: Mapping[str, float], title: str = "") -> None:
        super().__init__(metrics)
        self._title = title

    def _repr_html_(self) -> str:
        budgets = [budget for budget in BUDGETS if any(f"{name}_{budget}" in self for name in KINDS)]
        rows = [[kind.title, *(self._cell(f"{name}_{n}") for n in budgets)] for name, kind in KINDS.items()]
        return notebook.table(["", *(f"N={n}" for n in budgets)], rows, self._title)

    def _cell(self, name: str) -> float | str:
        value = self.get(name, -1.0)
        return "-" if value < 0 else float(value)


def recall(
    proposals: Sequence[Any],
    truth: Sequence[Any],
    *,
    ignore: Sequence[Any] | None = None,
    areas: Sequence[Any] | None = None,
    budgets: Sequence[int] = BUDGETS,
) -> Metrics:
    """Recall@N and AR@N of proposals: the numbers of pycocotools' COCOeval with `useCats=0`, `maxDets=budgets`.

    Args:
        proposals: for each image its boxes (P, 4) and scores (P,), as a pair or as an object with `boxes` and
            `scores`; or its boxes alone, the best first.
        truth: for each image its objects' boxes (G, 4), in the same pixels.
        ignore: for each image (G,) bool, crowds and the like: neither found nor missed; None: no box is.
        areas: for each image (G,), for the metrics by size; None: those of the boxes.
        budgets: the N: so many of an image's best proposals are used.

    Boxes are (x1, y1, x2, y2), in arrays, tensors or lists.

    Raises:
        ValueError: proposals and truth of different numbers of images, or an array of another shape.
    """
    if len(proposals) != len(truth):
        raise ValueError(
            f"{len(proposals)} images with proposals and {len(truth)} with truth: give both for each image"
        )
    metric = ProposalRecall(budgets)
    for image, (found, wanted) in enumerate(zip(proposals, truth, strict=True)):
        boxes, scores = _scored(found)
        objects = as_boxes(wanted, f"truth[{image}]")
        width, height = (objects[:, 2:] - objects[:, :2]).T
        area = width * height if areas is None else np.asarray(areas[image], np.float64)
        out = np.zeros(len(objects), bool) if ignore is None else np.asarray(ignore[image], bool)
        _same_length(f"ignore[{image}] or areas[{image}]", objects, out, area)
        _same_length(f"the scores of proposals[{image}]", boxes, scores)
        metric.update(image, boxes, scores, objects, area, out)
    return Metrics(metric.compute(), f"{len(truth):,} images")


def as_boxes(values: Any, name: str) -> np.ndarray:
    """Boxes (n, 4) in float64; n may be 0.

    Raises:
        ValueError: an array of another shape.
    """
    boxes = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, np.float64)
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} has the shape {boxes.shape}: boxes are (n, 4), x1, y1, x2, y2")
    return boxes


def _scored(found: Any) -> tuple[np.ndarray, np.ndarray]:
    if hasattr(found, "boxes"):
        found = (found.boxes, found.scores)
    if isinstance(found, tuple) and len(found) == 2:
        scores = found[1].detach().cpu() if hasattr(found[1], "detach") else found[1]
        return as_boxes(found[0], "proposals"), np.asarray(scores, np.float64)
    boxes = as_boxes(found, "proposals")
    return boxes, -np.arange(len(boxes), dtype=np.float64)


def _same_length(name: str, boxes: np.ndarray, *others: Iterable[Any]) -> None:
    for other in others:
        if len(list(other)) != len(boxes):
            raise ValueError(f"{name}: {len(list(other))} values for {len(boxes)} boxes")
