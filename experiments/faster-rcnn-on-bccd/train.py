"""A Fast R-CNN head by torchvision's own code, on our trained RPN and on torchvision's initial one: mAP of both.

    python experiments/faster-rcnn-on-bccd/train.py <run folder> [--steps 300] [--arms ours initial]

Both arms have the run's backbone, data, sizes and split, the same second stage, steps, batches and learning rate.
"ours" begins with everything the run has learnt; "initial" with ImageNet's backbone, torchvision's anchors, a new RPN.
"""

import argparse
import contextlib
import csv
import io
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead

from anchorlab.build import build_data, build_network
from anchorlab.data.batch import Batch
from anchorlab.data.module import DataModule
from anchorlab.trained.device import settings_for
from anchorlab.trained.load import Trained, load_trained
from anchorlab.trained.torchvision import to_torchvision

COLUMNS = ("arm", "steps", "mAP", "mAP_50", "mAP_75", "minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--images", type=int, help="validation images; all where this is not given")
    parser.add_argument("--arms", nargs="+", default=["ours", "initial"], choices=["ours", "initial"])
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results.csv"))
    given = parser.parse_args()
    trained = load_trained(given.run)
    settings_for(trained.config["trainer"], trained.network).prepare_process()
    rows = []
    for arm in given.arms:
        data = data_of(trained.config, given.batch, given.images)
        torch.manual_seed(0)
        model = detector(arm, trained, 1 + len(data.category_names))
        started = time.perf_counter()
        fit(model, data, given.steps, given.lr)
        minutes = (time.perf_counter() - started) / 60
        rows.append([arm, given.steps, *(f"{value:.4f}" for value in average_precision(model, data)), f"{minutes:.1f}"])
        print("  ".join(f"{name} {value}" for name, value in zip(COLUMNS, rows[-1], strict=True)), flush=True)
    with given.results.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def data_of(config: Mapping[str, Any], batch_size: int, images: int | None) -> DataModule:
    changed = {"batch_size": batch_size, "val_batch_size": batch_size, "limit_val": images}
    data = build_data({**config, "data": {**config["data"], **changed}})
    data.setup()
    return data


def detector(arm: str, trained: Trained, num_classes: int) -> FasterRCNN:
    if arm == "ours":
        return to_torchvision(trained, num_classes)
    fresh = Trained(build_network(trained.config), trained.config, trained.file, None, None, None, {})
    sizes = tuple((8 * stride,) for stride in fresh.network.backbone.strides)  # 32 to 512 at strides 4 to 64
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    head = RPNHead(fresh.network.backbone.channels, 3)
    return to_torchvision(fresh, num_classes, rpn_anchor_generator=anchors, rpn_head=head)


def fit(model: FasterRCNN, data: DataModule, steps: int, lr: float) -> None:
    """torchvision's joint training: SGD with momentum, a warm-up, a tenth of the rate for the last quarter."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr, 0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50) * (0.1 if step >= 0.75 * steps else 1)
    )
    for step, batch in zip(range(steps), endless(data), strict=False):
        losses = model(pictures(batch), targets(batch))
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step + 1}/{steps}  loss {loss:.3f}", flush=True)


def endless(data: DataModule) -> Iterator[Batch]:
    loader: Any = data.train_dataloader()
    epoch = 0
    while True:
        loader.batch_sampler.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def pictures(batch: Batch) -> list[Tensor]:
    """Images (3, H, W) in 0..1, without padding."""
    sizes = batch.sizes.tolist()
    return [image[:, :height, :width] / 255 for image, (height, width) in zip(batch.images, sizes, strict=True)]


def targets(batch: Batch) -> list[dict[str, Tensor]]:
    columns = zip(batch.boxes, batch.category, batch.ignore, strict=True)
    return [{"boxes": boxes[~ignore], "labels": 1 + kinds[~ignore]} for boxes, kinds, ignore in columns]


@torch.no_grad()
def average_precision(model: FasterRCNN, data: DataModule) -> tuple[float, float, float]:
    """mAP over IoU 0.50:0.05:0.95, at 0.50 and at 0.75, of the validation images, by pycocotools."""
    model.eval()
    found: Any = []
    for batch in data.val_dataloader():
        for row, result in enumerate(model(pictures(batch))):
            boxes = batch.to_original(row, result["boxes"])
            columns = zip(boxes.tolist(), result["scores"].tolist(), result["labels"].tolist(), strict=True)
            number = int(batch.index[row])
            found += [{"image_id": number, "score": s, "category_id": c, "bbox": xywh(box)} for box, s, c in columns]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = ground_truth(data)
        evaluation = COCOeval(truth, truth.loadRes(found) if found else COCO(), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0], evaluation.stats[1], evaluation.stats[2]


def ground_truth(data: DataModule) -> COCO:
    boxes: list[Any] = []
    for number, record in enumerate(data.val_records):
        columns = (record.boxes.tolist(), record.category.tolist(), record.area.tolist(), record.ignore.tolist())
        for box, category, area, ignore in zip(*columns, strict=True):
            at = {"id": len(boxes) + 1, "image_id": number, "category_id": 1 + category}
            boxes.append({**at, "bbox": xywh(box), "area": area, "iscrowd": int(ignore)})
    truth = COCO()
    content: Any = {
        "images": [{"id": number} for number in range(len(data.val_records))],
        "categories": [{"id": 1 + number, "name": name} for number, name in enumerate(data.category_names)],
        "annotations": boxes,
    }
    truth.dataset = content
    truth.createIndex()
    return truth


def xywh(box: list[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


if __name__ == "__main__":
    main()
