"""Run folders as training leaves them, in milliseconds: real ranks of made-up proposals on made-up images."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anchorlab.metrics.from_ranks import AT_50
from anchorlab.metrics.recall import ProposalRecall, match
from anchorlab.runs.gallery import GalleryImage, thumbnail, write_gallery
from anchorlab.runs.metrics import MetricsCSV
from anchorlab.runs.record import RunRecord

SIDE = 200
PICTURES = 3


def config(**changes: Any) -> dict[str, Any]:
    """A resolved config of few keys; `anchor__k=6` changes anchor.k."""
    plain: dict[str, Any] = {
        "seed": 0,
        "data": {"root": "/data/cells", "validate_on": "val", "workers": 2},
        "anchor": {"_target_": "anchorlab.rpn.anchors.AnchorGrid", "ratios": [0.5, 1, 2], "k": 3, "scale": 8},
        "trainer": {"epochs": 3, "devices": 1},
        "logger": {"name": None, "group": None},
    }
    for key, value in changes.items():
        group, _, name = key.partition("__")
        if name:
            plain[group] = plain[group] | {name: value}
        else:
            plain[group] = value
    return plain


def write_run(
    folder: Path,
    settings: Mapping[str, Any],
    miss: float = 0.3,
    images: int = 40,
    data: int = 0,
    status: str = "finished",
    pictures: int = PICTURES,
    axes: Mapping[str, Any] | None = None,
) -> Path:
    """One run: `miss` is how far its proposals lie off, `data` which images it was scored on."""
    record = RunRecord(folder)
    record.start(settings, settings["seed"], overrides=["anchor.k=3"])
    k = settings["anchor"]["k"]
    record.add(
        axes={"k": k, "smallest_size": 32.0, "ratio_span": 4.0, "anchors_per_image": 1000 * k} | dict(axes or {})
    )
    record.add(timings={"fit_s": 60.0 + 7 * k, "train_s": 50.0, "train_images_per_s": 40.0 / k})
    recall, scenes = ProposalRecall(), []
    noise = np.random.default_rng([settings["seed"], int(1000 * miss)])
    for index in range(images):
        scene = made_up_scene(np.random.default_rng((data, index)), noise, miss)
        flags = np.zeros(len(scene["boxes"]), dtype=bool)
        area = (scene["boxes"][:, 2:] - scene["boxes"][:, :2]).prod(axis=1)
        recall.update(index, scene["proposals"], scene["scores"], scene["boxes"], area, flags)
        if index < pictures:
            scenes.append(as_kept(index, scene))
    figures = recall.compute()
    record.add(final=figures | {"epoch": 3}, best=figures)
    record.write_recall(recall.ranks(), [f"{data}-{index}" for index in range(images)])
    write_gallery(folder, scenes)
    metrics = MetricsCSV(folder / "metrics.csv")
    for step in range(12):
        metrics.append(step, {"epoch": step // 4, "train/loss": 1 / (1 + step) + miss})
        if step % 4 == 3:
            metrics.append(step, {"epoch": step // 4, "val/AR_100": figures["AR_100"] * (step + 1) / 12})
    (folder / "anchors.json").write_text(json.dumps(made_up_diagnosis(k, 1 - miss / 2)))
    if status == "finished":
        record.finish()
    elif status == "failed":
        record.fail("the loss is not finite at step 7")
    return folder


def made_up_diagnosis(k: int, last: float) -> dict[str, Any]:
    """As `study.attribution.AnchorReport.values`; the last shape is dead."""
    stages = {"anchors": 1.0, "decoded": 0.98, "NMS <i>": 0.95, "best 100": last}
    shapes = [
        {
            "level": 0,
            "stride": 16,
            "width": 10.0 + at,
            "height": 20.0,
            "positives": 1 / k,
            "proposals": 1 / k,
            "matched": 0.0 if at == k - 1 else 1 / (k - 1),
            "AR_without": 0.4,
        }
        for at in range(k)
    ]
    return {
        "schema_version": 1,
        "images": 8,
        "budget": 100,
        "AR": 0.5,
        "funnel": [{"stage": name, "recall_50": y, "recall_70": y / 2, "AR": y / 1.5} for name, y in stages.items()],
        "shapes": shapes,
        "dead": [],
    }


def made_up_scene(fixed: np.random.Generator, noise: np.random.Generator, miss: float) -> dict[str, np.ndarray]:
    """Boxes are a function of `fixed`; of the proposals every box has three, off by `miss` of its sides."""
    count = int(fixed.integers(1, 7))
    side = fixed.uniform(15, 110, (count, 2))
    corner = fixed.uniform(0, 1, (count, 2)) * (SIDE - side)
    boxes = np.concatenate([corner, corner + side], axis=1)
    image = fixed.integers(90, 190, 3) * np.ones((SIDE, SIDE, 1))
    for x1, y1, x2, y2 in boxes.astype(int):
        image[y1:y2, x1:x2] = fixed.integers(30, 255, 3)
    near = np.repeat(boxes, 3, axis=0)
    near = near + noise.normal(0, miss / 2, near.shape) * np.tile(np.repeat(side, 3, axis=0), 2)
    far = noise.uniform(0, SIDE - 40, (40, 2))
    proposals = np.concatenate([near, np.concatenate([far, far + noise.uniform(10, 90, far.shape)], axis=1)])
    proposals[:, 2:] = np.maximum(proposals[:, 2:], proposals[:, :2] + 1)
    scores = np.concatenate([noise.uniform(0.3, 1, len(near)), noise.uniform(0, 0.7, len(far))])
    return {"image": image.astype(np.uint8), "boxes": boxes, "proposals": proposals, "scores": scores}


def as_kept(index: int, scene: Mapping[str, np.ndarray]) -> GalleryImage:
    best = np.argsort(-scene["scores"])
    proposals, scores = scene["proposals"][best], scene["scores"][best]
    counted = np.ones((len(scene["boxes"]), 1), dtype=bool)
    rank = match(proposals, scores, scene["boxes"], counted, limit=1000)[:, AT_50, 0]
    size = (SIDE, SIDE)
    return GalleryImage(f"picture {index}", thumbnail(scene["image"]), size, scene["boxes"], rank, proposals, scores)


def write_sweep(root: Path, seeds: int = 3) -> Path:
    """Settings of several seeds, single runs, one that runs, one that failed, and one with a hostile name."""
    job = 0
    for k, ratios, miss in ((3, [1], 0.5), (3, [0.5, 1, 2], 0.42), (6, [0.5, 1, 2], 0.36), (9, [0.5, 1, 2], 0.35)):
        for seed in range(seeds):
            write_run(root / str(job), config(seed=seed, anchor__k=k, anchor__ratios=ratios), miss)
            job += 1
    hostile = config(anchor__k=12, logger={"name": "<script>alert(1)</script>", "group": "<b>"})
    write_run(root / str(job), hostile, 0.3, axes={"ratio_span": 9.0})
    write_run(root / str(job + 1), config(anchor__k=15), 0.6, status="running")
    broken = RunRecord(root / str(job + 2))
    broken.start(config(anchor__k=99), 0)
    broken.fail("anchor.k=99 leaves no memory <img src=x onerror=alert(2)>")
    return root
