"""Scores of run folders: finds the runs to compare and reduces each recall.npz to what a comparison needs.

It judges nothing (see comparison.py). A few files are read at a time, and what is kept of each is small: hundreds of
runs on thousands of images fit into memory.

I  images    R  boxes of all images    T  IoU thresholds    A  area ranges    N  budgets
"""

import glob
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anchorlab.cores import available_cores
from anchorlab.errors import SettingError
from anchorlab.metrics.from_ranks import (
    AREA_RANGES,
    BUDGETS,
    THRESHOLDS,
    Metric,
    Ranks,
    metric_keys,
    recall_from_ranks,
)
from anchorlab.runs.record import Run, read_run

CURVE = sorted({*BUDGETS, *np.geomspace(1, 1000, 50).round().astype(int).tolist()})
"""The budgets recall is drawn at."""

ImageKey = tuple[str, bytes]
ImageKeys = set[ImageKey]
"""What makes images the same in two runs: the id, and which area ranges count each of the boxes."""


class Scores(NamedTuple):
    """The recall of one run, reduced from its recall.npz.

    data    the identity of the images and of their boxes, by which runs are comparable or not
    images  (I,) their ids, sorted
    boxes   how many are counted
    found   (I,), wanted (I,)  boxes of the metric, as in `Metric.per_image`
    recall  (N, T, A) at `budgets`, -1 where a range has no box
    """

    data: str
    images: np.ndarray
    boxes: int
    found: np.ndarray
    wanted: np.ndarray
    budgets: tuple[int, ...]
    recall: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Every metric of `Metric` at every budget of `BUDGETS` that was scored."""
        return {key: self.metric(key) for key in metric_keys([n for n in BUDGETS if n in self.budgets])}

    def metric(self, key: str) -> float:
        metric = Metric.of(key)
        return metric.from_table(self.recall[self.budgets.index(metric.budget)])


class Unreadable(NamedTuple):
    """Takes the place of scores: why a run's recall.npz cannot be used."""

    why: str


def read_runs(patterns: str | Sequence[str]) -> tuple[list[Run], list[str]]:
    """All runs in folders, below them, or matching globs (`**` too); and a sentence for each that cannot be read.

    Raises:
        SettingError: for a pattern that names nothing, or folders without any run.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    folders = {folder.resolve(): folder for pattern in patterns for folder in _run_folders(pattern)}
    runs: list[Run] = []
    problems: list[str] = []
    for folder in sorted(folders.values(), key=_natural):
        try:
            runs.append(read_run(folder))
        except ValueError as error:
            problems.append(f"left out: {error}")
    if not runs:
        why = f": {problems[0]}" if problems else ": give the folder of a run or of a sweep"
        raise SettingError(f"runs={','.join(patterns)} holds no run that can be read{why}")
    return runs, problems


def _run_folders(pattern: str) -> list[Path]:
    places = (
        [Path(pattern)] if os.path.exists(pattern) else [Path(place) for place in glob.glob(pattern, recursive=True)]
    )
    if not places:
        raise SettingError(f"runs={pattern} names nothing: give the folder of a run or of a sweep, or a glob in quotes")
    found = []
    for place in places:
        if place.name == "run.json":
            found.append(place.parent)
        for folder, inner, files in os.walk(place):
            if "run.json" in files:
                found.append(Path(folder))
                inner.clear()  # what lies in a run's folder belongs to it
    return found


def read_scores(
    runs: Sequence[Run], metric: Metric, shared: ImageKeys | None = None
) -> list[Scores | Unreadable | None]:
    """The scores of every run; None before its first validation.

    Args:
        shared: only these images are looked at; None: all.

    Raises:
        SettingError: for a metric at more proposals than a run kept ranks of.
    """

    def read(run: Run) -> Scores | Unreadable | None:
        try:
            return scores_of(run, metric, shared)
        except SettingError:
            raise
        except ValueError as error:
            return Unreadable(str(error))

    with ThreadPoolExecutor(min(4, available_cores())) as pool:  # decompression releases the interpreter's lock
        return list(pool.map(read, runs))


def scores_of(run: Run, metric: Metric, shared: ImageKeys | None = None) -> Scores | None:
    """Scores of one run; None before its first validation.

    Raises:
        ValueError: for a file that cannot be read or was scored in another way.
        SettingError: for a metric at more proposals than the run kept ranks of.
    """
    arrays = run.recall()
    if arrays is None:
        return None
    limit = _limit(run, arrays)
    if metric.budget > limit:
        raise SettingError(
            f"metric asks for {metric.budget} proposals, {run.folder} was scored with {limit}: choose a smaller N"
        )
    images, ranks = _sorted_by_id(arrays)
    if shared is not None:
        keep = [key in shared for key in _image_keys(images, ranks)]
        images, ranks = images[keep], _rows_of(ranks, np.flatnonzero(keep))
    digest = hashlib.sha256("\0".join(images.tolist()).encode())
    digest.update(ranks.num_boxes.tobytes() + np.packbits(ranks.counted).tobytes())
    budgets = tuple(sorted({n for n in (*CURVE, metric.budget) if n <= limit}))
    recall = recall_from_ranks(ranks.rank, ranks.counted, budgets)
    found, wanted = metric.per_image(ranks)
    boxes = int(ranks.counted[:, 0].sum())
    return Scores(digest.hexdigest(), images, boxes, found, wanted, budgets, recall)


def _limit(run: Run, arrays: dict[str, np.ndarray]) -> int:
    """How many proposals of an image took part in the matching."""
    missing = {"index", "num_boxes", "rank", "counted", "budgets", "thresholds", "areas", "image_ids"} - set(arrays)
    if missing:
        raise ValueError(f"{run.folder / 'recall.npz'} holds no {', '.join(sorted(missing))}: evaluate the run again")
    same = np.array_equal(arrays["thresholds"], THRESHOLDS) and arrays["areas"].tolist() == list(AREA_RANGES)
    if not same:
        raise ValueError(f"{run.folder / 'recall.npz'} was scored at other thresholds or areas: evaluate the run again")
    return int(arrays["budgets"].max())


def _sorted_by_id(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, Ranks]:
    ranks = Ranks(*(arrays[name] for name in Ranks._fields))
    images = arrays["image_ids"]
    if len(images) != len(ranks.index):  # older runs kept no ids: the row in the split stands for the image
        images = ranks.index.astype(str)
    order = np.argsort(images, kind="stable")
    return images[order], ranks if (np.diff(order) == 1).all() else _rows_of(ranks, order)


def _rows_of(ranks: Ranks, images: np.ndarray) -> Ranks:
    """These images of `ranks`, (I,) positions, with their boxes."""
    num_boxes = ranks.num_boxes[images]
    starts = (np.cumsum(ranks.num_boxes) - ranks.num_boxes)[images]
    rows = np.arange(num_boxes.sum()) + np.repeat(starts - (np.cumsum(num_boxes) - num_boxes), num_boxes)
    return Ranks(ranks.index[images], num_boxes, ranks.rank[rows], ranks.counted[rows])


def _image_keys(images: np.ndarray, ranks: Ranks) -> list[ImageKey]:
    """What makes an image the same in two runs: its id, and which area ranges count each of its boxes."""
    ends = np.cumsum(ranks.num_boxes)
    return [
        (str(name), ranks.counted[end - count : end].tobytes())
        for name, count, end in zip(images.tolist(), ranks.num_boxes.tolist(), ends.tolist(), strict=True)
    ]


def common_images(runs: Sequence[Run]) -> ImageKeys:
    """The images that all runs were scored on, with the same boxes.

    Raises:
        SettingError: where there is none.
    """
    common: ImageKeys | None = None
    for run in runs:
        try:
            arrays = run.recall()
        except ValueError:  # reported when its scores are read
            continue
        if arrays is not None:
            keys = set(_image_keys(*_sorted_by_id(arrays)))
            common = keys if common is None else common & keys
    if common is not None and not common:
        raise SettingError("images=common: the runs share no image with the same boxes; use images=same")
    return common or set()


def _natural(path: Path) -> list[Any]:
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in path.parts]
