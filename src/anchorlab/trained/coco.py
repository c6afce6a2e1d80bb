"""Proposals and boxes as COCO's JSON, written as they come and never held together; and pycocotools' answer to them.

Every file appears whole, under its name, when it is closed.
"""

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from anchorlab.data.batch import Batch
from anchorlab.data.sample import Record
from anchorlab.rpn.proposals.nms import Proposals
from anchorlab.runs.files import whole_file

PROPOSALS, TRUTH = "proposals.json", "truth.json"
CATEGORY = 1
"""Proposals have no class; COCO's formats want one."""


@contextlib.contextmanager
def json_list(path: Path, head: str = "", tail: str = "") -> Iterator[Callable[[Iterable[Any]], None]]:
    """What adds items to a list that is written into a `whole_file` as they come; head, tail: what stands around it."""
    with whole_file(path) as file:
        file.write(f"{head}[".encode())
        separator = "\n"

        def add(items: Iterable[Any]) -> None:
            nonlocal separator
            for item in items:
                file.write(f"{separator}{json.dumps(item, separators=(',', ':'))}".encode())
                separator = ",\n"

        yield add
        file.write(f"\n]{tail}\n".encode())


class CocoFiles:
    """proposals.json (COCO results) and truth.json (COCO annotations) of the images of one split.

    Image ids are the data set's own; ignored boxes are crowds; the one category is "object".
    """

    def __init__(self, folder: Path, records: Sequence[Record]) -> None:
        self.records = records
        self._open = contextlib.ExitStack()
        self._add = self._open.enter_context(json_list(folder / PROPOSALS))
        self._truth = folder / TRUTH
        self._seen: set[int] = set()

    def add(self, batch: Batch, proposals: list[Proposals]) -> None:
        for row, (index, found) in enumerate(zip(batch.index.tolist(), proposals, strict=True)):
            if index not in self._seen:
                self._seen.add(index)
                boxes = batch.to_original(row, found.boxes)
                self._add(results(self.records[index].image_id, boxes, found.scores))

    def close(self) -> None:
        self._open.close()
        images = [
            {"id": r.image_id, "file_name": r.path.name, "height": r.height, "width": r.width} for r in self.records
        ]
        head = f'{{"images":{json.dumps(images)},"categories":[{{"id":{CATEGORY},"name":"object"}}],"annotations":'
        numbered = enumerate((pair for record in self.records for pair in _annotations(record)), start=1)
        with json_list(self._truth, head, tail="}") as add:
            add({"id": number, **annotation} for number, annotation in numbered)


def results(image_id: int | str, boxes: Tensor, scores: Tensor) -> Iterable[dict[str, Any]]:
    """COCO results of one image: boxes (P, 4) float64 xyxy in original pixels, scores (P,), best first."""
    for (x1, y1, x2, y2), score in zip(boxes.tolist(), scores.double().tolist(), strict=True):
        bbox = [x1, y1, x2 - x1, y2 - y1]
        yield {"image_id": image_id, "category_id": CATEGORY, "bbox": bbox, "score": score}


def largest_difference(folder: Path, metrics: Mapping[str, float], budgets: Sequence[int]) -> float:
    """The largest difference between our metrics and those that pycocotools finds for the two files in `folder`."""
    theirs = by_pycocotools(folder, budgets)
    return max(abs(metrics[name] - value) for name, value in theirs.items())


def by_pycocotools(folder: Path, budgets: Sequence[int]) -> dict[str, float]:
    """recall_N, recall_iou70_N and AR_N, by size too, of proposals.json on truth.json: COCOeval, useCats=0."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / TRUTH))
        found = json.loads((folder / PROPOSALS).read_text(encoding="utf-8"))
        evaluation = COCOeval(truth, truth.loadRes(found) if found else COCO(), "bbox")
        evaluation.params.useCats, evaluation.params.maxDets = 0, list(budgets)
        evaluation.evaluate()
        evaluation.accumulate()
    return _metrics(evaluation.eval["recall"][:, 0], budgets)


def _metrics(recall: np.ndarray, budgets: Sequence[int]) -> dict[str, float]:
    """Our names for COCOeval's recall (T, A, N)."""
    out: dict[str, float] = {}
    for at, budget in enumerate(budgets):
        out |= {f"recall_{budget}": float(recall[0, 0, at]), f"recall_iou70_{budget}": float(recall[4, 0, at])}
        for area, label in enumerate(("", "_s", "_m", "_l")):
            out[f"AR{label}_{budget}"] = float(recall[:, area, at].mean())
    return out


def _annotations(record: Record) -> Iterable[dict[str, Any]]:
    for (x1, y1, x2, y2), area, ignore in zip(
        record.boxes.tolist(), record.area.tolist(), record.ignore.tolist(), strict=True
    ):
        bbox = [x1, y1, x2 - x1, y2 - y1]
        yield {
            "image_id": record.image_id,
            "category_id": CATEGORY,
            "bbox": bbox,
            "area": area,
            "iscrowd": int(ignore),
        }
