"""Recall@N at every budget, IoU and area: AnchorLab's metric against pycocotools' COCOeval, figures equal to 1e-9."""

import contextlib
import io
import time
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anchorlab.recall import ProposalRecall
from benchmarks.measure import report

BUDGETS = (10, 50, 100, 300, 1000)
IMAGES, PROPOSALS, BOXES = 500, 1000, 7


def scene(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Boxes, and proposals of which a third lie near one of them."""
    corner, side = rng.uniform(0, 400, (BOXES, 2)), rng.uniform(10, 200, (BOXES, 2))
    boxes = np.concatenate([corner, corner + side], axis=1)
    near = boxes[rng.integers(BOXES, size=PROPOSALS // 3)]
    near = near + rng.normal(0, 0.15, near.shape) * np.tile(near[:, 2:] - near[:, :2], 2)
    corner = rng.uniform(0, 400, (PROPOSALS - len(near), 2))
    far = np.concatenate([corner, corner + rng.uniform(10, 200, corner.shape)], axis=1)
    proposals = np.concatenate([near, far])
    proposals[:, 2:] = np.maximum(proposals[:, 2:], proposals[:, :2] + 1)
    return {"boxes": boxes, "area": side.prod(axis=1), "proposals": proposals, "scores": rng.random(len(proposals))}


def ours(scenes: list[dict[str, np.ndarray]]) -> dict[str, float]:
    metric = ProposalRecall(BUDGETS)
    for index, one in enumerate(scenes):
        ignore = np.zeros(BOXES, dtype=bool)
        metric.update(index, one["proposals"], one["scores"], one["boxes"], one["area"], ignore)
    return metric.compute()


def theirs(scenes: list[dict[str, np.ndarray]]) -> np.ndarray:
    truth = COCO()
    truth.dataset = {  # pyright: ignore[reportAttributeAccessIssue]
        "images": [{"id": i + 1} for i in range(len(scenes))],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [annotation(i, g, one) for i, one in enumerate(scenes) for g in range(BOXES)],
    }
    found = [
        {"image_id": i + 1, "category_id": 1, "score": float(score), "bbox": xywh(box)}
        for i, one in enumerate(scenes)
        for box, score in zip(one["proposals"], one["scores"], strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")  # pyright: ignore[reportArgumentType]
        evaluation.params.useCats, evaluation.params.maxDets = 0, list(BUDGETS)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["recall"]  # (T, K, A, M)


def annotation(image: int, row: int, one: dict[str, np.ndarray]) -> dict[str, Any]:
    box = {"bbox": xywh(one["boxes"][row]), "area": float(one["area"][row]), "iscrowd": 0, "category_id": 1}
    return {"id": image * BOXES + row + 1, "image_id": image + 1, **box}


def xywh(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]


def main() -> None:
    rng = np.random.default_rng(0)
    scenes = [scene(rng) for _ in range(IMAGES)]
    started = time.perf_counter()
    figures = ours(scenes)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    recall = theirs(scenes)
    reference_seconds = time.perf_counter() - started
    for at, budget in enumerate(BUDGETS):
        for area, name in enumerate(("AR", "AR_s", "AR_m", "AR_l")):
            assert abs(figures[f"{name}_{budget}"] - recall[:, 0, area, at].mean()) < 1e-9
    row = {
        "images": IMAGES,
        "proposals": PROPOSALS,
        "boxes": BOXES,
        "AnchorLab s": seconds,
        "pycocotools s": reference_seconds,
        "times faster": reference_seconds / seconds,
    }
    report("recall", "Recall at every budget, IoU and area; figures equal to 1e-9; one process", [row])


if __name__ == "__main__":
    main()
