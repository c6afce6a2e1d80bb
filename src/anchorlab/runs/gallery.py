"""Gallery of a run (proposals.npz): a few validation images with their boxes and best proposals, to compare by eye.
Metrics come from recall.npz, which covers all images.

G  boxes of one image    P  proposals of one image
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from anchorlab.errors import DamagedFile
from anchorlab.printable import printable
from anchorlab.runs.files import write_whole
from anchorlab.runs.reading import check_array, read_arrays

NAME = "proposals.npz"
KEPT = 100
"""Proposals kept of each image, best first."""
LONGEST, QUALITY = 480, 80
"""Long side of the kept pictures in pixels, and their JPEG quality."""
COUNTED = {
    "jpeg": "num_bytes",
    "boxes": "num_boxes",
    "rank": "num_boxes",
    "proposals": "num_proposals",
    "scores": "num_proposals",
}
"""The arrays of all images in one, and how much of each belongs to an image."""
KINDS = {"jpeg": ("u", ()), "boxes": ("f", (4,)), "rank": ("iu", ()), "proposals": ("f", (4,)), "scores": ("f", ())}


@dataclass(frozen=True)
class GalleryImage:
    """One image, everything in its own pixels.

    image      JPEG, at most 480 px on its long side     boxes      (G, 4) xyxy, ignored ones left out
    size       (height, width) of the image as it was    rank       (G,) of the proposal that found each at IoU 0.5
    """

    image_id: str
    image: bytes
    size: tuple[int, int]
    boxes: np.ndarray
    rank: np.ndarray
    proposals: np.ndarray
    scores: np.ndarray


def thumbnail(image: np.ndarray) -> bytes:
    """JPEG of an (H, W, 3) uint8 RGB image, made smaller where it is large; the same bytes for the same image."""
    picture = Image.fromarray(image)
    picture.thumbnail((LONGEST, LONGEST))
    packed = BytesIO()
    picture.save(packed, "JPEG", quality=QUALITY)
    return packed.getvalue()


def write_gallery(folder: str | Path, images: Sequence[GalleryImage]) -> None:
    """proposals.npz in a run's folder, with the best `KEPT` proposals of each."""
    arrays = {
        "image_ids": np.array([image.image_id for image in images], dtype=np.str_),
        "sizes": np.array([image.size for image in images], dtype=np.int32).reshape(-1, 2),
        "jpeg": np.frombuffer(b"".join(image.image for image in images), dtype=np.uint8),
        "num_bytes": np.array([len(image.image) for image in images], dtype=np.int64),
        "boxes": _stack([image.boxes for image in images], (4,)),
        "rank": np.concatenate([np.zeros(0, np.int32), *(image.rank for image in images)]).astype(np.int32),
        "num_boxes": np.array([len(image.boxes) for image in images], dtype=np.int32),
        "proposals": _stack([image.proposals[:KEPT] for image in images], (4,)),
        "scores": _stack([image.scores[:KEPT] for image in images], ()),
        "num_proposals": np.array([min(KEPT, len(image.scores)) for image in images], dtype=np.int32),
    }
    packed = BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    write_whole(Path(folder) / NAME, packed.getvalue())


def read_gallery(folder: str | Path) -> list[GalleryImage]:
    """The gallery of a run; none where it kept none.

    Raises:
        DamagedFile: for a file that is no such archive.
    """
    path = Path(folder) / NAME
    try:
        kept = read_arrays(path)
        _check(path, kept)
    except FileNotFoundError:
        return []
    except DamagedFile as error:
        raise DamagedFile(f"{error}: delete it, the page does without") from error
    images, *parts = (np.split(kept[name], np.cumsum(kept[count])[:-1]) for name, count in COUNTED.items())
    sizes = [(int(height), int(width)) for height, width in kept["sizes"]]
    names = [printable(name) for name in kept["image_ids"].tolist()]
    jpegs = [image.tobytes() for image in images]
    return [GalleryImage(*row) for row in zip(names, jpegs, sizes, *parts, strict=True)][: len(sizes)]


def _check(path: Path, kept: dict[str, np.ndarray]) -> None:
    images = len(check_array(path, kept, "image_ids", "U", (None,)))
    check_array(path, kept, "sizes", "iu", (images, 2))
    for name, (kinds, shape) in KINDS.items():
        rows = check_array(path, kept, name, kinds, (None, *shape))
        count = check_array(path, kept, COUNTED[name], "iu", (images,))
        if (count < 0).any() or count.sum() != len(rows):
            raise DamagedFile(f"{path} holds counts that do not fit: {len(rows)} {name}, {count.sum()} counted")


def _stack(rows: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros((0, *shape)), *rows]).astype(np.float32)
