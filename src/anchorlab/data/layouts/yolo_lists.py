"""Darknet's lists: train.txt, valid.txt, test.txt, an image a line; CVAT YOLO 1.1 with obj.data and obj.names."""

from anchorlab.data.headers import is_image
from anchorlab.data.labels import partners_of
from anchorlab.data.layout import Found, by_split
from anchorlab.data.layouts.yolo import class_names, label_files, part_of
from anchorlab.data.names import ImageNames
from anchorlab.data.naming import LEFT_OUT, Naming
from anchorlab.data.sample import DataError
from anchorlab.data.text import read_lines
from anchorlab.data.tree import Tree, parent_of, stem_of
from anchorlab.data.yolo import yolo_entries

FORMAT = "yolo"
LOOKED_INTO = 5


def recognise(tree: Tree, naming: Naming) -> Found | None:
    lists = [
        name
        for name in tree.with_suffix(".txt")
        if naming.of(stem_of(name)) not in (None, LEFT_OUT) and _names_images(tree, name)
    ]
    labels = label_files(tree)
    if not lists or not labels:
        return None
    names = class_names(tree)
    partners = partners_of(tree.images, labels)
    parts = {}
    groups, unused = by_split(lists, lambda name: naming.of(stem_of(name)))
    for split, files in groups.items():
        images = list(dict.fromkeys(image for file in files for image in _images(tree, file)))
        if images:
            parts[split] = part_of(tree, naming, split, images, partners, names, stem_of(files[0]))
    if not any(label for part in parts.values() for _, label in part.pairs):
        return None
    layout = "CVAT YOLO" if "obj.data" in tree else "Darknet YOLO"
    return Found(layout, FORMAT, yolo_entries, parts, lists[0], rank=1, unused={"lists": unused})


def _names_images(tree: Tree, name: str) -> bool:
    rows = [line for line in read_lines(tree.path(name))[:LOOKED_INTO] if line]
    return bool(rows) and all(is_image(row) for row in rows)


def _images(tree: Tree, name: str) -> list[str]:
    """The images of a list; `DataError` where some of them are not there."""
    rows = [line for line in read_lines(tree.path(name)) if line]
    find = ImageNames(tree, [parent_of(name), "", *tree.image_folders])
    find.settle(rows)
    images = [path.relative_to(tree.root).as_posix() for row in rows if (path := find.find(row)) is not None]
    if find.missing:
        raise DataError(
            f"{tree.path(name)}: {len(find.missing):,} of {len(rows):,} images are not there "
            f"({', '.join(find.missing[:3])}); looked in {find.tried()}"
        )
    return images
