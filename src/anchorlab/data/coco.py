"""COCO's instances JSON -> entries: boxes, areas and crowds in the order of the file, and no masks.

pycocotools' own index keeps the last of two images with one id and drops the other without a word, so that
the file is read here, and compared with pycocotools in the tests. What other tools write in COCO's name is read as
meant where there is one meaning: numbers and ids in quotes, no annotation ids, no areas, `coco_url` in place of a
name, a polygon in place of a box.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from anchorlab.data.checks import Checker, Corners, Entry, RawBox
from anchorlab.data.folder import TemplateReader
from anchorlab.data.headers import Size
from anchorlab.data.layout import Categories, Found, Part, Source, Template
from anchorlab.data.names import ImageNames
from anchorlab.data.sample import DataError
from anchorlab.data.text import as_flag, as_number, as_side
from anchorlab.data.tree import Tree

CORNERS = "write COCO's [x, y, width, height], or the corners in another format"


def coco_entries(part: Part, source: Source) -> Iterator[Entry]:
    """Images in the order of the file; `DataError` where a file as a whole is not COCO's."""
    for file in part.files:
        content = _load(file, source.needs_boxes)
        names = ImageNames(source.tree, part.folders, part.anywhere)
        yield from _entries(file, content, names, source)
        if names.missing:
            _note_missing(file, names, len(content["images"]), source.checker)


def _entries(file: Path, content: dict[str, Any], names: ImageNames, source: Source) -> Iterator[Entry]:
    checker = source.checker
    categories = _index_categories(content, source.categories)
    annotations = _by_image(content, file, checker)
    corners = Corners(CORNERS)
    names.settle([name for image in content["images"] if (name := _name(image))])
    seen: dict[Path, Any] = {}
    for image in content["images"]:
        image_id, name = image["id"], _name(image)
        if name is None:
            checker.note(file, f"image {image_id}", "no file name", image.get("file_name"))
            continue
        path = names.find(name)
        if path is None:
            continue
        if path in seen and seen[path] != image_id:
            checker.note(file, f"image {image_id}", f"the same file as image {seen[path]}: leave one of them out", name)
            continue
        seen[path] = image_id
        declared = _declared_size(image)
        rows = annotations.pop(_key(image_id), ())
        yield Entry(file, image_id, path, declared, list(_boxes(rows, categories, file, checker, corners, declared)))
    corners.check(file)


def _load(file: Path, needs_boxes: bool) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON: {error}") from None
    if isinstance(content, list):
        raise DataError(
            f"{file} is a bare list, as of annotations or results: COCO's instances are an object with `images`, "
            "`annotations` and `categories`; add the images"
        )
    if isinstance(content, dict) and "annotations" not in content and "images" in content:
        if not needs_boxes:
            return {**content, "annotations": []}
        raise DataError(
            f"{file} has images and no annotations: nothing to learn from (propose.py source={file} takes it)"
        )
    for key, entry in (("images", "id"), ("annotations", "image_id")):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and entry in row for row in rows):
            raise DataError(f"{file} is no COCO instances file: {key!r} is not a list of objects with {entry!r}")
    return content


def _name(image: Mapping[str, Any]) -> str | None:
    """LVIS has no file names, and COCO's addresses instead."""
    for key in ("file_name", "coco_url", "path"):
        name = image.get(key)
        if isinstance(name, str) and name:
            return name
    return None


def _key(value: Any) -> str:
    """What two spellings of one id have in common: 7 and "7"."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _index_categories(content: Mapping[str, Any], categories: Categories) -> dict[str, int] | Categories:
    """COCO's category id -> index; without a list of categories the ids are the names."""
    listed = content.get("categories")
    if not isinstance(listed, list) or not listed:
        return categories
    index = {}
    for number, category in enumerate(listed):
        if not isinstance(category, dict) or not category.get("name"):
            raise DataError(f"`categories` of the annotations: entry {number} has no name: {category!r}")
        index[_key(category.get("id"))] = categories.index(str(category["name"]))
    return index


def _by_image(content: Mapping[str, Any], file: Path, checker: Checker) -> dict[str, list[dict[str, Any]]]:
    """Annotations of each image id, in the order of the file, without repetitions and unknown images."""
    known = {_key(image["id"]) for image in content["images"]}
    ids = Counter(annotation.get("id") for annotation in content["annotations"] if annotation.get("id") is not None)
    repeated = {number for number, count in ids.items() if count > 1}
    seen: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        image_id, own_id = annotation["image_id"], annotation.get("id")
        if own_id in repeated:
            where = f"image {image_id}, annotation {own_id}"
            if any(_same(annotation, other) for other in seen[own_id]):
                checker.note(file, where, "the same annotation again, left out", own_id, harmless=True)
                continue
            if seen[own_id]:
                checker.note(
                    file, where, "duplicate annotation id, of another box: both are kept", own_id, harmless=True
                )
            seen[own_id].append(annotation)
        if _key(image_id) not in known:
            checker.note(file, f"annotation {own_id}", "unknown image id", image_id)
        else:
            by_image[_key(image_id)].append(annotation)
    return by_image


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("image_id", "category_id", "bbox"))


def _boxes(
    annotations: Iterable[dict[str, Any]],
    categories: dict[str, int] | Categories,
    file: Path,
    checker: Checker,
    corners: Corners,
    declared: Size | None,
) -> Iterator[RawBox]:
    for number, annotation in enumerate(annotations, start=1):
        name = f"annotation {annotation.get('id', number)}"
        where = f"image {annotation['image_id']}, {name}"
        category_id = _key(annotation.get("category_id"))
        category = categories.index(category_id) if isinstance(categories, Categories) else categories.get(category_id)
        if category is None:
            checker.note(file, where, "unknown category id", annotation.get("category_id"))
            continue
        try:
            box = _box(annotation)
            ignore = as_flag(annotation.get("iscrowd"))
            area = None if annotation.get("area") is None else as_number(annotation["area"])
        except ValueError as error:
            checker.note(file, where, str(error), annotation.get("bbox"))
            continue
        if area is not None and area < 0:
            checker.note(file, where, "negative area: that of the box instead", area, harmless=True)
            area = None
        x, y, width, height = box
        if declared is not None and not ignore:
            corners.see(box, (declared[1], declared[0]), x + width, y + height)
        yield RawBox(name, box, (width, height), (x, y, x + width, y + height), category, ignore, area)


def _box(annotation: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """(x, y, width, height), of an annotation without a box that of its polygons; `ValueError` where it has neither."""
    box = annotation.get("bbox")
    if box:
        if not isinstance(box, list) or len(box) != 4:
            raise ValueError("bbox is not [x, y, width, height]")
        try:
            x, y, width, height = map(as_number, box)
        except ValueError:
            raise ValueError("bbox is not [x, y, width, height]") from None
        return x, y, width, height
    polygons = annotation.get("segmentation")
    if not isinstance(polygons, list) or not polygons or not isinstance(polygons[0], list):
        raise ValueError("no bbox, and no polygon to take it from")
    xs = [as_number(x) for polygon in polygons for x in polygon[0::2]]
    ys = [as_number(y) for polygon in polygons for y in polygon[1::2]]
    if not xs or not ys:
        return math.nan, math.nan, math.nan, math.nan
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _declared_size(image: Mapping[str, Any]) -> Size | None:
    height, width = as_side(image.get("height")), as_side(image.get("width"))
    return None if height is None or width is None else (height, width)


def _note_missing(file: Path, names: ImageNames, total: int, checker: Checker) -> None:
    """One problem for all images of a file that are not there, with the folders that were tried."""
    count = len(names.missing)
    examples = ", ".join(names.missing[:3]) + (", ..." if count > 3 else "")
    message = f"{count:,} of {total:,} images are not there ({examples}); looked in {names.tried()}"
    checker.note(file, "images", message)


class CocoReader(TemplateReader):
    """Reads COCO's JSON from wherever it lies, or from where `images` and `annotations` say; see `TemplateReader`.

    Crowds (`iscrowd`) become ignored boxes. `area` is the annotation's: by it COCO tells small, medium and
    large.
    """

    format = "coco"
    usual = Template("images", "instances.json")

    @classmethod
    def of_file(cls, file: Path, images: Path | None = None) -> "CocoReader":
        """A reader of one file as "train", with boxes or without; `images`: the folder of its images, found if None."""
        reader = cls(root=file)
        reader.needs_boxes = False
        if images is not None:
            reader.tree = Tree(images)
            part = Part("", files=[file], folders=["", *reader.tree.image_folders], anywhere=False)
            reader.found = Found("COCO", cls.format, coco_entries, {"train": part}, file.name)
        return reader
