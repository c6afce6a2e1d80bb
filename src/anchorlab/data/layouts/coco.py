"""COCO: JSON files with `images` and `annotations`, one for all or one a split; images wherever their names lead.

COCO 2014 and 2017, LVIS, Objects365, and what Roboflow, CVAT, Label Studio, labelme2coco, FiftyOne, datumaro export.
"""

import json
import os
import re
from pathlib import Path

from anchorlab.data.coco import coco_entries
from anchorlab.data.layout import Found, Part, Template, by_split, folders_for
from anchorlab.data.naming import Naming
from anchorlab.data.sample import DataError
from anchorlab.data.tree import Tree, parent_of, stem_of

FORMAT = "coco"
LOOKED_INTO = 1 << 18  # bytes at both ends of a file
SMALL = 1 << 22
OTHER_TASKS = ("captions", "person_keypoints", "panoptic", "stuff", "image_info", "results", "predictions", "densepose")
LAYOUTS = (
    ("_annotations.coco.json", "Roboflow COCO"),
    ("instances_default.json", "CVAT COCO"),
    ("result.json", "Label Studio COCO"),
    ("labels.json", "FiftyOne COCO"),
    ("lvis_", "LVIS"),
    ("zhiyuan_", "Objects365"),
)
IMAGES, ROWS = re.compile(rb'"images"\s*:\s*\['), re.compile(rb'"(annotations|categories|file_name|coco_url)"\s*:')


def recognise(tree: Tree, naming: Naming) -> Found | None:
    files = [name for name in tree.with_suffix(".json") if is_coco(tree.path(name))]
    if not files:
        return None
    groups, unused = by_split(files, naming.of_path)
    parts: dict[str, Part] = {}
    for split, names in groups.items():
        chosen, others = _of_one_task(names)
        unused += len(others)
        if len(chosen) > 1:
            _refuse(tree, split, chosen)
        if split == "test" and _has_images_alone(tree.path(chosen[0])):  # COCO's own test images have no annotations
            unused += 1
        else:
            parts[split] = _part(tree, naming, split, chosen[0])
    return Found(_layout(files), FORMAT, coco_entries, parts, files[0], unused={"annotation files": unused})


def recognise_at(tree: Tree, naming: Naming, template: Template) -> Found:
    """COCO whose images and JSON lie in the given places."""
    parts = {
        split: Part(word, files=[tree.path(annotations)], folders=[images], anywhere=False)
        for split, word, images, annotations in template.places(tree, naming)
    }
    return Found("COCO", FORMAT, coco_entries, parts, str(template))


def is_coco(path: Path) -> bool:
    """Whether the ends of a file look like COCO's, or like a bare list of its annotations, which the reader refuses."""
    head, tail = ends_of(path)
    if head.lstrip(b"\xef\xbb\xbf \n\r\t").startswith(b"["):
        return b'"image_id"' in head and b'"bbox"' in head
    return any(IMAGES.search(end) for end in (head, tail)) and any(ROWS.search(end) for end in (head, tail))


def ends_of(path: Path) -> tuple[bytes, bytes]:
    """The first and the last bytes of a file, in one byte a letter; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(LOOKED_INTO)
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOOKED_INTO))
            tail = file.read()
    except OSError:
        return b"", b""
    return (head.replace(b"\0", b""), tail.replace(b"\0", b"")) if b"\0" in head[:100] else (head, tail)


def _part(tree: Tree, naming: Naming, split: str, name: str) -> Part:
    stem = stem_of(name).strip("_")
    folders = folders_for(tree, parent_of(name), stem, split, naming)
    word = next((part for part in (*reversed(name.split("/")[:-1]), stem) if naming.of(part) == split), "")
    return Part(_word(word, split), files=[tree.path(name)], folders=folders)


def _word(name: str, split: str) -> str:
    """`valid` of a folder, `minitrain2017` of `instances_minitrain2017`."""
    return next((word for word in reversed(re.split(r"[_\s.-]", name)) if Naming().of(word) == split), name)


def _of_one_task(names: list[str]) -> tuple[list[str], list[str]]:
    """COCO's folder of annotations has files for other tasks too: those of instances, and the others."""
    boxes = [name for name in names if not stem_of(name).startswith(OTHER_TASKS)]
    instances = [name for name in boxes if "instances" in stem_of(name)] or boxes or names
    return instances, [name for name in names if name not in instances]


def _has_images_alone(path: Path) -> bool:
    """Whether a file has no annotations at all, not even none."""
    content = json.loads(path.read_bytes()) if path.stat().st_size < SMALL else None
    return isinstance(content, dict) and "annotations" not in content


def _refuse(tree: Tree, split: str, names: list[str]) -> None:
    shown = " or ".join(f"data.root={tree.path(name)}" for name in names[:4])
    where = f"for {split}" if split != "train" else "to train on"
    raise DataError(f"data.root={tree.root} holds {len(names)} COCO files {where}: name the one that is meant, {shown}")


def _layout(files: list[str]) -> str:
    names = [name.rpartition("/")[2] for name in files]
    return next((layout for start, layout in LAYOUTS if any(name.startswith(start) for name in names)), "COCO")
