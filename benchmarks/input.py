"""Benchmark of the input pipeline, JPEG files to padded batches, against torchvision.transforms.v2; and of waiting for
data.

The same files (VOC 2007 below $ANCHORLAB_DATA), the same transforms with the same strengths, two loading processes
a side, which live through all rounds. torchvision is given both of its ways, tensors and PIL images, the order of
work that is cheapest for it (images shrink first) and a collate function as lean as ours; the ratio is to the
faster of the two. The share of waiting is that of real runs of train.py, from their run.json.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from anchorlab.data.augment import Augmentation
from anchorlab.data.loader import Loader
from anchorlab.data.module import DataModule
from anchorlab.data.sample import Record
from anchorlab.data.synthetic import SyntheticReader
from anchorlab.data.voc import VocReader
from benchmarks.measure import Options, Row, interleaved, parse, report, set_threads

ROOT = Path(__file__).parents[1]
LONG, BATCH, WORKERS = 416, 8, 2
FLIP, SCALE, SHIFT, COLOUR = 0.5, (0.7, 1.4), 0.1, 0.2  # conf/augment/standard.yaml
AUGMENTATIONS = {"none": False, "standard": True}


class TheirImages(Dataset[dict[str, Any]]):
    """The same records as torchvision's detection references load them."""

    def __init__(self, records: Sequence[Record], transform: Callable, pil: bool):
        self.records = records
        self.transform = transform
        self.pil = pil

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        boxes: Any = tv_tensors.BoundingBoxes(
            torch.from_numpy(record.boxes).float(),  # pyright: ignore[reportCallIssue]
            format="XYXY",
            canvas_size=(record.height, record.width),
        )
        if self.pil:
            image: Any = Image.open(record.path).convert("RGB")
        else:
            image = tv_tensors.Image(decode_image(str(record.path), ImageReadMode.RGB))
        return self.transform({"image": image, "boxes": boxes, "labels": torch.from_numpy(record.category)})


def their_transform(augmented: bool) -> Callable:
    """Colour and geometry as `Augmentation` draws them; boxes that leave the picture are dropped."""
    resize = v2.Resize(size=None, max_size=LONG, antialias=True)
    if not augmented:
        return v2.Compose([resize, v2.ToImage()])
    bilinear = v2.InterpolationMode.BILINEAR
    return v2.Compose(
        [
            resize,
            v2.RandomHorizontalFlip(FLIP),
            v2.RandomAffine((0, 0), translate=(SHIFT, SHIFT), scale=SCALE, interpolation=bilinear, fill=114),
            v2.ColorJitter(COLOUR, COLOUR, COLOUR, COLOUR / 10),
            v2.ToImage(),
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(),
        ]
    )


def their_collate(items: Sequence[dict[str, Any]]) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    height, width = (max(item["image"].shape[axis] for item in items) for axis in (1, 2))
    images = torch.zeros(len(items), 3, height, width, dtype=torch.uint8)
    for page, item in zip(images, items, strict=True):
        page[:, : item["image"].shape[1], : item["image"].shape[2]] = item["image"]
    return images, [item["boxes"].as_subclass(torch.Tensor) for item in items], [item["labels"] for item in items]


def their_loader(records: Sequence[Record], augmented: bool, pil: bool) -> DataLoader:
    dataset = TheirImages(records, their_transform(augmented), pil)
    processes = {"num_workers": WORKERS, "persistent_workers": True, "collate_fn": their_collate}
    return DataLoader(dataset, BATCH, shuffle=True, drop_last=True, **processes)


def our_loader(reader: Any, root: Path, augmented: bool, images: int, cache: Path | None = None) -> Loader:
    augment = Augmentation(flip=FLIP, scale=SCALE, shift=SHIFT, colour=COLOUR) if augmented else None
    cached: dict[str, Any] = {} if cache is None else {"cache": "disk", "cache_folder": str(cache)}
    settings: dict[str, Any] = {"long": LONG, "limit_train": images, "val_fraction": 0.1, "augment": augment}
    return DataModule(reader, str(root), BATCH, WORKERS, **settings, **cached).train_dataloader()


def visit(loader: Any) -> None:
    for _ in loader:
        pass


def measure(name: str, augmented: bool, source: tuple[Any, Path], images: int, cache: Path, repeats: int) -> Row:
    ours = our_loader(*source, augmented, images)
    records = ours.dataset.records
    loaders: dict[str, Any] = {"ours": ours, "cached": our_loader(*source, augmented, images, cache)}
    loaders |= {way: their_loader(records, augmented, pil=way == "PIL") for way in ("tensors", "PIL")}
    timings = interleaved({way: partial(visit, loader) for way, loader in loaders.items()}, repeats)
    served = len(records) // BATCH * BATCH
    theirs = min((timings["tensors"], timings["PIL"]), key=lambda timing: timing.median)
    return {
        "augmentation": name,
        "images": served,
        "AnchorLab images/s": served / timings["ours"].median,
        "from cache": served / timings["cached"].median,
        "torchvision tensors": served / timings["tensors"].median,
        "torchvision PIL": served / timings["PIL"].median,
        "times faster": timings["ours"].times_faster(theirs),
        "range": timings["ours"].range_of_rounds(theirs),
        "from cache, times faster": timings["cached"].times_faster(theirs),
        "its range": timings["cached"].range_of_rounds(theirs),
    }


def waiting(backbone: str, augment: str, overrides: Sequence[str], folder: Path) -> Row:
    """One run of train.py: how fast it trained, and what share of that it waited for batches."""
    run = folder / f"{backbone}-{augment}"
    chosen = [f"backbone={backbone}", f"augment={augment}", *overrides, f"hydra.run.dir={run}"]
    fixed = ["logger=none", "callbacks.pictures.images=0", "data.limit_val=2", f"data.workers={WORKERS}"]
    subprocess.run([sys.executable, ROOT / "train.py", *chosen, *fixed], check=True, stdout=subprocess.DEVNULL)
    timings = json.loads((run / "run.json").read_text())["timings"]
    return {
        "backbone": backbone,
        "augmentation": augment,
        "training images/s": timings["train_images_per_s"],
        "share of time waiting": timings["data_wait_share"],
    }


def main(options: Options) -> None:
    if not options.quick and not os.environ.get("ANCHORLAB_DATA"):
        raise SystemExit("error: ANCHORLAB_DATA names no folder: set it to the one that holds voc07/ (VOC 2007)")
    set_threads(options.threads or 1)
    repeats = options.num_repeats(5)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source: tuple[Any, Path] = (VocReader, Path(os.environ.get("ANCHORLAB_DATA", ""), "voc07"))
        training = ["data=voc", f"data.root={source[1]}", "trainer.epochs=1", "trainer.max_steps=40", "anchor=fpn"]
        training.append("backbone.weights=none")  # no step is faster or slower for it
        backbones = ["resnet18_fpn", "efficientnet_lite0_fpn"]
        if options.quick:
            source = (partial(SyntheticReader, num_train=16, num_val=2, image_size=(60, 80), sizes=(8, 30)), folder)
            training, backbones = ["debug=one_step", "data=synthetic", f"data.root={folder / 'drawn'}"], ["tiny"]
        augmentations = list(AUGMENTATIONS)[: 1 if options.quick else None]
        images = 16 if options.quick else 480
        rows = [measure(a, AUGMENTATIONS[a], source, images, folder / "cache", repeats) for a in augmentations]
        waits = [waiting(backbone, "flip", training, folder) for backbone in backbones]
    setting = {"layout": "channels_last", "precision": "uint8", "repeats": repeats, "workers": WORKERS, "batch": BATCH}
    claim = f"JPEG files to batches, long side {LONG}: images a second, and against the faster of torchvision's ways."
    report("input", claim, rows, setting, options)
    claim = f"Whole training runs with {WORKERS} loading processes: the share of time that training waited for a batch."
    report("input_waiting", claim, waits, {**setting, "layout": "auto", "precision": "auto", "repeats": 1}, options)


if __name__ == "__main__":
    main(parse(__doc__))
