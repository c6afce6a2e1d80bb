"""pycocotools' own answer to the question of `recall.py`, to hold ours against."""

import contextlib
import io
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

AREA_LABELS = ("", "_s", "_m", "_l")


class Scored(NamedTuple):
    """One image: proposals (P, 4) with scores (P,); boxes (G, 4) with areas and ignore flags (G,)."""

    boxes: np.ndarray
    scores: np.ndarray
    gt_boxes: np.ndarray
    gt_area: np.ndarray
    gt_ignore: np.ndarray


def by_pycocotools(images: list[Scored], budgets) -> dict[str, float]:
    """The same figures from `COCOeval.eval["recall"]`, (T, 1, A, N)."""
    truth, results = [], []
    for index, image in enumerate(images):
        for box, area, ignore in zip(image.gt_boxes, image.gt_area, image.gt_ignore, strict=True):
            truth.append({"image_id": index, "area": area, "iscrowd": int(ignore)} | xywh(box))
        for box, score in zip(image.boxes, image.scores, strict=True):
            results.append({"image_id": index, "score": score} | xywh(box))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco(truth, len(images)), coco(results, len(images)), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(budgets)
        evaluation.evaluate()
        evaluation.accumulate()
    return figures(evaluation.eval["recall"][:, 0], budgets)


def xywh(box: np.ndarray) -> dict:
    x1, y1, x2, y2 = box.tolist()
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": 1}


def coco(annotations: list[dict], num_images: int) -> COCO:
    # Not loadRes, which fails on an empty list. Ids start at 1: a match with id 0 is none to COCOeval.
    numbered = [{"area": 0.0, "iscrowd": 0, "id": i} | a for i, a in enumerate(annotations, start=1)]
    dataset = COCO()
    listed = [{"id": i} for i in range(num_images)]
    content: Any = {"images": listed, "annotations": numbered, "categories": [{"id": 1}]}
    dataset.dataset = content
    dataset.createIndex()
    return dataset


def figures(recall: np.ndarray, budgets) -> dict[str, float]:
    out = {}
    for m, n in enumerate(budgets):
        out |= {f"recall_{n}": recall[0, 0, m], f"recall_iou70_{n}": recall[4, 0, m]}
        for a, label in enumerate(AREA_LABELS):
            found = recall[:, a, m]
            out[f"AR{label}_{n}"] = found.mean() if (found > -1).all() else -1.0
    return out
