"""Proposals of many images as one file: COCO's results, an .npz, or Detectron2's pickle; a part in memory at a time.

I images | P proposals of one image | R proposals of all images

Pickles are written, for Detectron2 reads nothing else; none is ever read here.
"""

import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anchorlab.runs.files import whole_file
from anchorlab.trained.coco import CATEGORY, json_list

XYXY_ABS = 0
"""Detectron2's BoxMode of absolute corners."""


@dataclass(frozen=True)
class Part:
    """Some images in a row, proposals image by image and best first, in original pixels."""

    ids: list[int | str]
    size: np.ndarray  # (I, 2) int64, height and width
    num: np.ndarray  # (I,) int64, how many of the proposals are each image's
    boxes: np.ndarray  # (R, 4) float32 xyxy
    scores: np.ndarray  # (R,) float32

    def images(self) -> Iterator[tuple[int | str, np.ndarray, np.ndarray]]:
        """Id, boxes (P, 4) and scores (P,) of each image."""
        starts = np.cumsum(self.num) - self.num
        for name, start, count in zip(self.ids, starts, self.num, strict=True):
            yield name, self.boxes[start : start + count], self.scores[start : start + count]


Parts = Callable[[], Iterable[Part]]
"""The parts from the first to the last, each time it is called."""


def write_coco(parts: Parts, path: Path) -> None:
    """COCO results: xywh to a thousandth of a pixel, scores to 1e-6, one category."""
    with json_list(path) as add:
        for name, boxes, scores in (image for part in parts() for image in part.images()):
            corners = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1).astype(np.float64)
            rows = zip(corners.round(3).tolist(), scores.astype(np.float64).round(6).tolist(), strict=True)
            add({"image_id": name, "category_id": CATEGORY, "bbox": box, "score": score} for box, score in rows)


def write_npz(parts: Parts, path: Path) -> None:
    """image_ids (I,) text, size (I, 2), num (I,), boxes (R, 4), scores (R,): image i has rows sum(num[:i]) onwards."""
    heads = [(np.array(list(map(str, part.ids)), dtype=np.str_), part.size, part.num) for part in parts()]
    ids, size, num = (np.concatenate(column) for column in zip(*heads, strict=True))
    total = int(num.sum())
    with whole_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in (("image_ids", ids), ("size", size), ("num", num)):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        _stream(archive, "boxes", (total, 4), (part.boxes for part in parts()))
        _stream(archive, "scores", (total,), (part.scores for part in parts()))


def write_detectron2(parts: Parts, path: Path) -> None:
    """What DATASETS.PROPOSAL_FILES_* name: ids, boxes, objectness_logits, bbox_mode."""
    images = lambda: (image for part in parts() for image in part.images())  # noqa: E731
    content = {
        "ids": _Streamed(name for name, _, _ in images()),
        "boxes": _Streamed(boxes for _, boxes, _ in images()),
        "objectness_logits": _Streamed(_logits(scores) for _, _, scores in images()),
        "bbox_mode": XYXY_ABS,
    }
    with whole_file(path) as file:
        pickler = pickle.Pickler(file, protocol=4)
        pickler.fast = True  # else it keeps everything written, to find repeats
        pickler.dump(content)


WRITERS: dict[str, tuple[str, Callable[[Parts, Path], None]]] = {
    "coco": ("proposals.json", write_coco),
    "npz": ("proposals.npz", write_npz),
    "detectron2": ("proposals.pkl", write_detectron2),
}
"""File name and writer of each format."""


class _Streamed:
    """An iterable that is pickled as a list, an item at a time."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (), None, iter(self.items)


def _logits(scores: np.ndarray) -> np.ndarray:
    """(P,) float32; finite also where a probability has been rounded to 0 or 1."""
    p = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.log(p / (1 - p)).astype(np.float32)


def _stream(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], arrays: Iterable[np.ndarray]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for array in arrays:
            member.write(np.ascontiguousarray(array, dtype=np.float32).tobytes())
