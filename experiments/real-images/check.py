"""Score a finished run's last checkpoint again, with pycocotools: python experiments/real-images/check.py <run folder>

The network's proposals on the run's validation images go to COCOeval (useCats=0) and its figures are compared with
those in run.json.
"""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anchorlab.training.build import build, build_data, build_module, build_network

BUDGETS = [10, 50, 100, 300, 1000]


def main(folder: Path) -> None:
    final = json.loads((folder / "run.json").read_text())["figures"]["final"]
    recall = score(*proposals_and_boxes(folder))
    worst = 0.0
    for at, budget in enumerate(BUDGETS):
        pairs = {f"recall_{budget}": recall[0, 0, 0, at], f"AR_{budget}": recall[:, 0, 0, at].mean()}
        for name, value in pairs.items():
            worst = max(worst, abs(value - final[name]))
            print(f"{name:12} pycocotools {value:.10f}   run.json {final[name]:.10f}")
    print(f"largest difference {worst:.1e}")


def proposals_and_boxes(folder: Path) -> tuple[list[dict], list[dict]]:
    """COCO results of the last checkpoint, and the annotations of the validation images."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    settings = build(config["trainer"])
    settings.prepare_process()
    module = build_module(config, build_network(config), settings).eval()
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    found: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for batch in build_data(config).val_dataloader():
        with torch.no_grad():
            proposals = module.network.propose(module(batch), batch.sizes)
        for row, target in enumerate(batch.targets or []):
            image = int(batch.index[row])
            boxes = batch.to_original(row, proposals[row].boxes)
            for box, score in zip(boxes.tolist(), proposals[row].scores.double().tolist(), strict=True):
                found.append({"image_id": image, "score": score, "area": 0.0, **xywh(box)})
            for box, area, ignore in zip(*(column.tolist() for column in target), strict=True):
                truth.append({"image_id": image, "area": area, "iscrowd": int(ignore), **xywh(box)})
    return found, truth


def score(found: list[dict], truth: list[dict]) -> Any:
    """COCOeval's recall (T, K, A, M)."""
    with contextlib.redirect_stdout(io.StringIO()):
        images = {annotation["image_id"] for annotation in [*found, *truth]}
        evaluation = COCOeval(coco(truth, images), coco(found, images), "bbox")
        evaluation.params.useCats, evaluation.params.maxDets = 0, BUDGETS
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["recall"]


def coco(annotations: list[dict], images: set[int]) -> COCO:
    numbered = [{"iscrowd": 0, "id": number, **a} for number, a in enumerate(annotations, start=1)]
    data: Any = {"images": [{"id": image} for image in images], "annotations": numbered, "categories": [{"id": 1}]}
    dataset = COCO()
    dataset.dataset = data
    dataset.createIndex()
    return dataset


def xywh(box: list[float]) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": 1}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
