"""Recall@N at every budget, IoU and area: AnchorLab's metric against pycocotools and hotcoco (Rust), figures equal.

Each side starts from the same arrays in memory and ends with all figures. For hotcoco there is a second row:
its time where its own objects and indices, which nobody can avoid making, are there already (pycocotools cannot
evaluate twice). pycocotools needs a quarter of an hour for the whole set, so it takes part in a fiftieth of it.

P: proposals of one image, G: its boxes, I: images.
"""

import contextlib
import importlib.util
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from anchorlab.metrics.from_ranks import BUDGETS
from anchorlab.metrics.recall import ProposalRecall
from benchmarks.measure import Options, Row, Timing, interleaved, parse, peak_memory, report, set_threads

TOLERANCE = 1e-9


class Scenes(NamedTuple):
    """Images of equally many boxes and proposals, float64 xyxy in original pixels."""

    proposals: np.ndarray  # (I, P, 4)
    scores: np.ndarray  # (I, P), in no order
    boxes: np.ndarray  # (I, G, 4)
    area: np.ndarray  # (I, G)


def scenes(num_images: int, num_proposals: int = 1000, num_boxes: int = 7) -> Scenes:
    """Random boxes, and proposals of which a third lie near one of their image's."""
    rng = np.random.default_rng(0)
    boxes = _random_boxes(rng, (num_images, num_boxes))
    sides = boxes[..., 2:] - boxes[..., :2]
    num_near = num_proposals // 3
    choice = rng.integers(num_boxes, size=(num_images, num_near))[..., None]
    near = np.take_along_axis(boxes, choice, axis=1)
    near += rng.normal(0, 0.15, near.shape) * np.tile(np.take_along_axis(sides, choice, axis=1), 2)
    near[..., 2:] = np.maximum(near[..., 2:], near[..., :2] + 1)
    far = _random_boxes(rng, (num_images, num_proposals - num_near))
    scores = rng.random((num_images, num_proposals))
    return Scenes(np.concatenate([near, far], axis=1), scores, boxes, sides.prod(axis=2))


def _random_boxes(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    corner, side = rng.uniform(0, 400, (*shape, 2)), rng.uniform(10, 200, (*shape, 2))
    return np.concatenate([corner, corner + side], axis=2)


def ours(data: Scenes) -> dict[str, float]:
    metric = ProposalRecall(BUDGETS)
    ignore = np.zeros(data.boxes.shape[1], dtype=bool)
    for index, (proposals, scores, boxes, area) in enumerate(zip(*data, strict=True)):
        metric.update(index, proposals, scores, boxes, area, ignore)
    return metric.compute()


def by_pycocotools(data: Scenes) -> Any:
    """pycocotools' evaluation of the scenes, ready to `run`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth: Any = COCO()
    image, columns = np.arange(1, len(data.boxes) + 1), _truth_columns(data)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    truth.dataset = {
        "images": [{"id": i} for i in image.tolist()],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {"id": n, "image_id": i, "bbox": box, "area": area, "iscrowd": 0, "category_id": 1}
            for n, (i, box, area) in enumerate(rows, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation: Any = COCOeval(truth, truth.loadRes(_detections(data)), "bbox")
    evaluation.params.useCats, evaluation.params.maxDets = 0, list(BUDGETS)
    return evaluation


def by_hotcoco(data: Scenes) -> Any:
    """hotcoco's evaluation of the scenes, made the way it recommends for arrays, ready to `run`."""
    from hotcoco import COCO, COCOeval  # pyright: ignore[reportMissingImports]

    image, boxes, area = _truth_columns(data)
    images = [{"id": i, "width": 600, "height": 600} for i in range(1, len(data.boxes) + 1)]
    categories = [{"id": 1, "name": "object"}]
    truth = COCO.from_arrays(images, categories, image, np.ones_like(image), boxes, area=area)
    evaluation = COCOeval(truth, truth.load_res(_detections(data)), "bbox")
    evaluation.params.use_cats, evaluation.params.max_dets = False, list(BUDGETS)
    return evaluation


def recall_of(evaluation: Any) -> np.ndarray:
    """(T, A, N) recall that a peer's evaluation finds."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["recall"])[:, 0]


PEERS: dict[str, Callable[[Scenes], Any]] = {"pycocotools": by_pycocotools, "hotcoco": by_hotcoco}


def available() -> list[str]:
    return [name for name in PEERS if importlib.util.find_spec(name) is not None]


def check_equal(data: Scenes, peer: str) -> None:
    figures, theirs = ours(data), recall_of(PEERS[peer](data))
    for at, budget in enumerate(BUDGETS):
        expected = {f"recall_{budget}": theirs[0, 0, at], f"recall_iou70_{budget}": theirs[4, 0, at]}
        for area, name in enumerate(("AR", "AR_s", "AR_m", "AR_l")):
            expected[f"{name}_{budget}"] = theirs[:, area, at].mean()
        for key, value in expected.items():
            assert abs(figures[key] - value) < TOLERANCE, f"{key}: {figures[key]}, by {peer} {value}"


def one_side(name: str, size: tuple[int, int, int]) -> Callable[[], Any]:
    """The call of one side, for a process of its own."""
    data = scenes(*size)
    return (lambda: ours(data)) if name == "AnchorLab" else (lambda: recall_of(PEERS[name](data)))


def rows_of(size: tuple[int, int, int], peers: list[str], options: Options) -> list[Row]:
    """One row for each peer, all measured in turn."""
    data = scenes(*size)
    calls: dict[str, Callable[[], Any]] = {"AnchorLab": lambda: ours(data)}
    for peer in peers:
        check_equal(data, peer)
        calls[peer] = lambda build=PEERS[peer]: recall_of(build(data))
    if "hotcoco" in peers:
        prepared = by_hotcoco(data)
        calls["hotcoco, prepared"] = lambda: recall_of(prepared)
    timing = interleaved(calls, options.num_repeats(5))
    memory = {name: peak_memory(one_side, name, size).growth for name in ("AnchorLab", *peers)}
    return [_row(size, name, timing, memory) for name in calls if name != "AnchorLab"]


def _row(size: tuple[int, int, int], peer: str, timing: dict[str, Timing], memory: dict[str, float]) -> Row:
    return {
        "images x proposals x boxes": " x ".join(f"{n:,}" for n in size),
        "peer": peer,
        "AnchorLab s": timing["AnchorLab"].median,
        "peer s": timing[peer].median,
        "times faster": timing["AnchorLab"].times_faster(timing[peer]),
        "in single rounds": timing["AnchorLab"].range_of_rounds(timing[peer]),
        "AnchorLab MiB": memory["AnchorLab"],
        "peer MiB": memory.get(peer, "as above"),
    }


def _truth_columns(data: Scenes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image id (I G,), xywh (I G, 4) and area (I G,) of the boxes."""
    num_images, num_boxes = data.area.shape
    return np.repeat(np.arange(1, num_images + 1), num_boxes), _xywh(data.boxes), data.area.ravel()


def _detections(data: Scenes) -> np.ndarray:
    """(I P, 7): image id, x, y, width, height, score, category, as both peers read them."""
    num_images, num_proposals = data.scores.shape
    image = np.repeat(np.arange(1, num_images + 1), num_proposals)
    return np.column_stack([image, _xywh(data.proposals), data.scores.ravel(), np.ones(len(image))])


def _xywh(boxes: np.ndarray) -> np.ndarray:
    corner, end = boxes.reshape(-1, 4)[:, :2], boxes.reshape(-1, 4)[:, 2:]
    return np.concatenate([corner, end - corner], axis=1)


def main(options: Options) -> None:
    set_threads(options.threads or 1)
    peers = available()
    if options.quick:
        rows = rows_of((4, 30, 3), peers, options)
    else:
        fast = [peer for peer in peers if peer != "pycocotools"]
        rows = rows_of((100, 1000, 7), peers, options)
        rows += rows_of((5000, 1000, 7), fast, options) if fast else []
    notes = ["MiB: what one evaluation adds to the peak memory of a process of its own, which holds the arrays."]
    notes += [f"{peer} is not installed: `pip install {peer}` compares with it." for peer in PEERS if peer not in peers]
    claim = "Recall at every budget, IoU and area; all figures equal to 1e-9."
    setting = {"precision": "float64", "layout": "arrays in memory", "repeats": options.num_repeats(5)}
    report("recall", claim, rows, setting, options, notes)


if __name__ == "__main__":
    main(parse(__doc__))
