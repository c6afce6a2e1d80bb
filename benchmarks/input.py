"""Images a second from JPEG files to padded uint8 batches: AnchorLab's loader against torchvision.transforms.v2.

Two loading processes each, the same files (VOC 2007 below $ANCHORLAB_DATA), the same transforms with the same
strengths. torchvision is given both of its ways, tensors and PIL images, its own fast decoder, the order of work
that suits it, and a collate function as lean as ours; the ratios are to whichever is faster. Loaders keep their
processes, which start in the round that does not count. `--images` and `--repeats` make it shorter.
"""

import argparse
import os
from collections.abc import Callable, Sequence
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
from anchorlab.data.sample import Augment, Record
from anchorlab.data.voc import VocReader
from benchmarks.measure import interleaved, report

LONG, BATCH, WORKERS = 416, 8, 2
FLIP, SCALE, SHIFT, COLOUR = 0.5, (0.7, 1.4), 0.1, 0.2  # conf/augment/standard.yaml


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
        size = (record.height, record.width)
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(record.boxes).float(), format="XYXY", canvas_size=size)  # pyright: ignore
        if self.pil:
            image: Any = Image.open(record.path).convert("RGB")
        else:
            image = tv_tensors.Image(decode_image(str(record.path), ImageReadMode.RGB))
        return self.transform({"image": image, "boxes": boxes, "labels": torch.from_numpy(record.category)})


def their_transform(augmented: bool) -> Callable:
    """Images shrink first, which is the cheaper order for them too; boxes that leave the picture are dropped."""
    resize = v2.Resize(size=None, max_size=LONG, antialias=True)
    if not augmented:
        return v2.Compose([resize, v2.ToImage()])
    bilinear = v2.InterpolationMode.BILINEAR
    steps = [
        resize,
        v2.RandomHorizontalFlip(FLIP),
        v2.RandomAffine(degrees=(0, 0), translate=(SHIFT, SHIFT), scale=SCALE, interpolation=bilinear, fill=114),
        v2.ColorJitter(COLOUR, COLOUR, COLOUR, COLOUR / 10),
        v2.ToImage(),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(),
    ]
    return v2.Compose(steps)


def their_collate(items: Sequence[dict[str, Any]]) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    height, width = (max(item["image"].shape[axis] for item in items) for axis in (1, 2))
    images = torch.zeros(len(items), 3, height, width, dtype=torch.uint8)
    for page, item in zip(images, items, strict=True):
        page[:, : item["image"].shape[1], : item["image"].shape[2]] = item["image"]
    return images, [item["boxes"].as_subclass(torch.Tensor) for item in items], [item["labels"] for item in items]


def their_loader(records: Sequence[Record], augmented: bool, pil: bool) -> DataLoader:
    dataset = TheirImages(records, their_transform(augmented), pil)
    return DataLoader(
        dataset, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, collate_fn=their_collate
    )


def our_loader(root: Path, images: int, augmented: bool, **settings: Any) -> Loader:
    augment: Augment | None = Augmentation(flip=FLIP, scale=SCALE, shift=SHIFT, colour=COLOUR) if augmented else None
    reader: Any = VocReader
    data = DataModule(reader, str(root), BATCH, WORKERS, long=LONG, limit_train=images, augment=augment, **settings)
    return data.train_dataloader()


def visit(loader: Any) -> None:
    for _ in loader:
        pass


def row(name: str, images: int, seconds: dict[str, float]) -> dict[str, Any]:
    rates = {key: images / value for key, value in seconds.items()}
    theirs = max(rates["tensors"], rates["PIL"])
    return {
        "images/s": name,
        "AnchorLab": rates["ours"],
        "AnchorLab, cached": rates.get("cached", "-"),
        "torchvision, tensors": rates["tensors"],
        "torchvision, PIL": rates["PIL"],
        "times faster": rates["ours"] / theirs,
        "cached, times faster": rates["cached"] / theirs if "cached" in rates else "-",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default=Path(os.environ.get("ANCHORLAB_DATA", "."), "voc07"), type=Path)
    parser.add_argument("--images", default=480, type=int)
    parser.add_argument("--repeats", default=5, type=int)
    arguments = parser.parse_args()
    rows = []
    for augmented, name in ((True, "standard augmentation"), (False, "no augmentation")):
        ours = our_loader(arguments.root, arguments.images, augmented)
        records = ours.dataset.records
        loaders: dict[str, Any] = {"ours": ours}
        loaders |= {k: their_loader(records, augmented, pil=k == "PIL") for k in ("tensors", "PIL")}
        runs = {key: lambda loader=loader: visit(loader) for key, loader in loaders.items()}
        rows.append(row(name, len(records), interleaved(runs, arguments.repeats)))
    report("input", f"JPEG to batch, long side {LONG}, batches of {BATCH}, {WORKERS} workers, uint8", rows)


if __name__ == "__main__":
    main()
