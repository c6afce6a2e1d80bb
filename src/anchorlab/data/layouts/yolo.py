"""YOLO by folders: images, and labels of the same names beside them or in `labels` where they are in `images`.

LabelImg, Label Studio, FiftyOne, Roboflow and Ultralytics without their data.yaml.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from anchorlab.data.labels import commas_or_blanks, looks_like, partners_of, sample
from anchorlab.data.layout import Found, Part, Template, by_split
from anchorlab.data.naming import Naming
from anchorlab.data.sample import DataError
from anchorlab.data.text import read_lines, read_text
from anchorlab.data.tree import Tree, parent_of
from anchorlab.data.yolo import NUM_FIELDS, yolo_entries

FORMAT = "yolo"
LISTS_OF_NAMES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt", "names.txt", "labels.txt")
NOT_LABELS = ("readme", "classes", "labels", "names", "predefined_classes", "requirements", "license", "notes")


def recognise(tree: Tree, naming: Naming) -> Found | None:
    labels = label_files(tree)
    if not labels or not tree.images:
        return None
    groups, left_over = by_split(tree.images, naming.of_folder)
    partners = partners_of(tree.images, labels)
    names = class_names(tree)
    parts = {}
    for split, images in groups.items():
        if split == "train" or any(image in partners for image in images):
            parts[split] = part_of(tree, naming, split, images, partners, names)
        else:
            left_over += len(images)
    if not any(image in partners for images in groups.values() for image in images):
        return None
    orphans = len(labels) - len(set(partners.values()))
    where = f"{parent_of(labels[0]) or tree.root.name}/*.txt"
    return Found(_layout(tree), FORMAT, yolo_entries, parts, where, rank=2, unused={"labels without an image": orphans})


def recognise_at(tree: Tree, naming: Naming, template: Template) -> Found:
    """YOLO whose images and labels lie in the given folders."""
    parts, names, orphans = {}, class_names(tree), 0
    for split, word, images, annotations in template.places(tree, naming):
        pictures = [name for name in tree.images if name.startswith(f"{images}/" if images else "")]
        labels = [name for name in text_files(tree) if name.startswith(f"{annotations}/" if annotations else "")]
        below = {name.removeprefix(f"{annotations}/").rpartition(".")[0]: name for name in labels}
        partners = {
            picture: below[key]
            for picture in pictures
            if (key := picture.removeprefix(f"{images}/").rpartition(".")[0]) in below
        }
        orphans += len(labels) - len(set(partners.values()))
        if pictures:
            parts[split] = part_of(tree, naming, split, pictures, partners, names, word)
    unused = {"labels without an image": orphans}
    return Found("YOLO", FORMAT, yolo_entries, parts, str(template), unused=unused)


def part_of(
    tree: Tree,
    naming: Naming,
    split: str,
    images: Sequence[str],
    partners: Mapping[str, str],
    names: Mapping[int, str],
    word: str | None = None,
) -> Part:
    """The images of a split with their label files; `word`: what the data set calls it, by default that of a folder."""
    if word is None:
        word = next((folder for folder in images[0].split("/")[:-1] if naming.of(folder) == split), "")
    pairs = [(tree.path(image), tree.path(partners[image]) if image in partners else None) for image in images]
    return Part(word, pairs=pairs, names=names)


def text_files(tree: Tree) -> list[str]:
    """Text files that are no lists of classes and nothing to be read by people."""
    return [name for name in tree.with_suffix(".txt") if not _is_other_text(name)]


def label_files(tree: Tree) -> list[str]:
    """Text files that can be labels, where a sample of them is."""
    names = text_files(tree)
    kinds = [kind for name in sample(names) if (kind := looks_like(tree.path(name), _is_row)) is not None]
    return names if sum(kinds) * 2 >= len(kinds) else []


def class_names(tree: Tree) -> dict[int, str]:
    """Class number -> name, from the files that tools leave, the nearest to the root; empty where there is none."""
    for name in sorted(tree.with_suffix(".yaml", ".yml"), key=lambda name: name.count("/")):
        content = yaml_content(tree.path(name))
        if names_of(tree, content):
            return names_of(tree, content)
    every = sorted((name for names in tree.others.values() for name in names), key=lambda name: (name.count("/"), name))
    for wanted in LISTS_OF_NAMES:
        for name in every:
            if name.rpartition("/")[2].lower() == wanted:
                return listed_names(read_lines(tree.path(name)))
    for name in every:
        if name.rpartition("/")[2] == "notes.json":  # Label Studio's
            return _noted_names(read_text(tree.path(name)))
    return {}


def listed_names(lines: Sequence[str]) -> dict[int, str]:
    """A line a class, the first is class 0; an empty line in between keeps its number for its name."""
    while lines and not lines[-1]:
        lines = lines[:-1]
    return {number: line or str(number) for number, line in enumerate(lines)}


def yaml_content(file: Path) -> dict[str, Any]:
    """What a YAML file says, {} where that is no mapping. `DataError` for a data.yaml that is no YAML."""
    try:
        content = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, OSError) as error:
        if file.stem.lower() in ("data", "dataset"):
            raise DataError(f"{file} is no YAML: {error}") from None
        return {}
    return content if isinstance(content, dict) else {}


def names_of(tree: Tree, content: Mapping[str, Any]) -> dict[int, str]:
    """`names` of a data.yaml as a list or numbered, `nc` for those that have none."""
    names, count = content.get("names"), content.get("nc")
    found: dict[int, str] = {}
    if isinstance(names, list):
        found = listed_names([str(name) for name in names])
    elif isinstance(names, dict):
        try:
            found = {int(number): str(name) for number, name in names.items()}
        except ValueError:
            found = listed_names([str(name) for name in names.values()])
    elif isinstance(names, str):
        found = listed_names(read_lines(tree.path(names))) if names in tree else {0: names}
    return {number: str(number) for number in range(count)} | found if isinstance(count, int) else found


def _noted_names(text: str) -> dict[int, str]:
    try:
        rows = json.loads(text)["categories"]
        return {int(row["id"]): str(row["name"]) for row in rows}
    except (ValueError, KeyError, TypeError):
        return {}


def _is_other_text(name: str) -> bool:
    plain = name.rpartition("/")[2].lower()
    return plain in LISTS_OF_NAMES or plain.partition(".")[0] in NOT_LABELS


def _is_row(fields: Sequence[str]) -> bool:
    """A class and at least four numbers; VisDrone's eight whole numbers between commas are another format."""
    row = commas_or_blanks(" ".join(fields))
    if len(row) < NUM_FIELDS:
        return False
    try:
        values = [float(field) for field in row]
    except ValueError:
        return False
    whole = all(value.is_integer() for value in values)
    return not (whole and len(values) == 8 and any("," in field for field in fields))


def _layout(tree: Tree) -> str:
    files = {name.rpartition("/")[2] for names in tree.others.values() for name in names}
    if "notes.json" in files:
        return "Label Studio YOLO"
    return "Roboflow YOLO" if any(".rf." in name for name in tree.images[:5]) else "YOLO"
