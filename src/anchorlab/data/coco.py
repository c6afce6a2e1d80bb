"""COCO's instances JSON -> records: boxes, areas and crowds in the order of the file, and no masks.

pycocotools' own index keeps the last of two images with one id and drops the other without a word, so that
the file is read here, and compared with pycocotools in the tests.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from anchorlab.data.checks import Checker, RawBox
from anchorlab.data.layout import LayoutReader, Template
from anchorlab.data.sample import DataError, Problem, Record


class CocoReader(LayoutReader):
    """Reads a folder of images and one JSON file, or one per split; arguments as in `LayoutReader`.

    Crowds (`iscrowd`) become ignored boxes. `area` is the annotation's: by it COCO tells small, medium and
    large.
    """

    undivided = Template("images", "instances.json")
    templates = (
        undivided,
        Template("{split}2017", "annotations/instances_{split}2017.json"),  # as COCO is published
        Template(".", "{split}.json"),
    )

    def read(self, split: str) -> tuple[list[Record], list[Problem]]:
        """Images and boxes in the order of the file; `DataError` where the file as a whole is not COCO's."""
        layout = self.layout()
        file = layout.annotations(split)
        content = _load(file)
        category_index = self._index_categories(content["categories"])
        checker = Checker()
        annotations = _by_image(content, file, checker)
        records = []
        for image in content["images"]:
            image_id = image["id"]
            path = checker.path(file, image_id, layout.images(split), image.get("file_name"))
            if path is None:
                continue
            size = checker.size(file, image_id, path, _declared_size(image))
            if size is None:
                continue
            boxes = _boxes(annotations.get(image_id, ()), category_index, file, checker)
            records.append(checker.record(file, image_id, path, size, boxes))
        return records, checker.problems

    def _index_categories(self, categories: list[dict[str, Any]]) -> dict[Any, int]:
        """COCO's category id -> index into `categories`."""
        return {category.get("id"): self.category_index(category["name"]) for category in categories}


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{file} is no JSON: {error}") from None
    for key, entry in (("images", "id"), ("annotations", "id"), ("categories", "name")):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and entry in row for row in rows):
            raise DataError(f"{file} is no COCO instances file: {key!r} is not a list of objects with {entry!r}")
    return content


def _by_image(content: dict[str, Any], file: Path, checker: Checker) -> dict[Any, list[dict[str, Any]]]:
    """Annotations of each image id, in the order of the file, without repeated ids and unknown images."""
    known = {image["id"] for image in content["images"]}
    seen = set()
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        image_id, own_id = annotation.get("image_id"), annotation["id"]
        if own_id in seen:
            checker.note(file, f"image {image_id}, annotation {own_id}", "duplicate annotation id", own_id)
        elif image_id not in known:
            checker.note(file, f"annotation {own_id}", "unknown image id", image_id)
        else:
            by_image[image_id].append(annotation)
        seen.add(own_id)
    return by_image


def _boxes(
    annotations: Iterable[dict[str, Any]], category_index: dict[Any, int], file: Path, checker: Checker
) -> Iterator[RawBox]:
    for annotation in annotations:
        name = f"annotation {annotation['id']}"
        where = f"image {annotation['image_id']}, {name}"
        category = category_index.get(annotation.get("category_id"))
        box: Any = annotation.get("bbox")
        if category is None:
            checker.note(file, where, "unknown category id", annotation.get("category_id"))
        elif not _is_box(box):
            checker.note(file, where, "bbox is not [x, y, width, height]", box)
        else:
            x, y, width, height = map(float, box)
            yield RawBox(
                name=name,
                written=(x, y, width, height),
                extent=(width, height),
                xyxy=(x, y, x + width, y + height),
                category=category,
                ignore=bool(annotation.get("iscrowd", 0)),
                area=annotation.get("area"),
            )


def _is_box(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(number, int | float) for number in box)


def _declared_size(image: dict[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return None if height is None or width is None else (height, width)
