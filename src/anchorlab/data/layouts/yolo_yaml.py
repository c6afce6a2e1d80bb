"""Ultralytics' data.yaml: splits as a folder, a text list, or several of them; `path`; `names` as a list or numbered.

Read as Ultralytics reads it: `path` where it exists, else the folder of the file; a `../` too many is dropped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

from anchorlab.data.labels import partners_of
from anchorlab.data.layout import Found, Part
from anchorlab.data.layouts import yolo as folders
from anchorlab.data.layouts.yolo import class_names, names_of, text_files, yaml_content
from anchorlab.data.names import ImageNames
from anchorlab.data.naming import LEFT_OUT, Naming, usual_split
from anchorlab.data.sample import SPLITS, DataError
from anchorlab.data.text import read_lines
from anchorlab.data.tree import Tree, parent_of
from anchorlab.data.yolo import with_keypoints

FORMAT = "yolo"
SUFFIXES = (".yaml", ".yml")


def recognise(tree: Tree, naming: Naming) -> Found | None:
    readings = [(name, content) for name in tree.with_suffix(*SUFFIXES) if (content := data_yaml(tree.path(name)))]
    if not readings or not tree.images:
        return None
    depth = min(name.count("/") for name, _ in readings)
    readings = [(name, content) for name, content in readings if name.count("/") == depth]
    if len(readings) > 1 and len({str(_splits(content, naming)) for _, content in readings}) > 1:
        shown = " or ".join(f"data.root={tree.path(name)}" for name, _ in readings[:4])
        raise DataError(
            f"data.root={tree.root} holds {len(readings)} data.yaml files: name the one that is meant, {shown}"
        )
    return _follow(tree, naming, *readings[0])


def data_yaml(file: Path) -> dict[str, Any] | None:
    """The content of a file that names images of splits, and classes; None of another one."""
    content = yaml_content(file)
    keys = {str(key).lower() for key in content}
    return content if ("names" in keys or "nc" in keys) and any(map(usual_split, keys)) else None


def _follow(tree: Tree, naming: Naming, name: str, content: dict[str, Any]) -> Found | None:
    """The parts that the file names; splits that are not there are said, unless it is the training images."""
    names = names_of(tree, content) or class_names(tree)
    partners = partners_of(tree.images, text_files(tree))
    places = _Places(tree, tree.path(name).parent, content)
    remarks: list[str] = []
    parts: dict[str, Part] = {}
    for split, (key, entries) in _splits(content, naming).items():
        images = [image for entry in entries for image in places.images(entry)]
        images = list(dict.fromkeys(images))
        if not images:
            if split == "train":
                return _by_folders(tree, naming, name, entries)
            remarks.append(f"{split}: {tree.path(name).name} names {', '.join(map(str, entries))}, where no image is")
            continue
        if split != "train" and "train" in parts and set(images) <= set(_names_of(tree, parts["train"])):
            remarks.append(
                f"{split}: {tree.path(name).name} names the training images again, which cannot be scored apart"
            )
            continue
        pairs = [(tree.path(image), tree.path(partners[image]) if image in partners else None) for image in images]
        parts[split] = Part(key, pairs=pairs, names=names)
    if "train" not in parts:
        return _by_folders(tree, naming, name, [])
    layout = "Roboflow YOLO" if "roboflow" in content else "Ultralytics YOLO"
    shape = content.get("kpt_shape")
    keypoints = shape[0] * shape[1] if isinstance(shape, list) and len(shape) == 2 else None
    return Found(layout, FORMAT, with_keypoints(keypoints), parts, name, rank=0, remarks=remarks)


def _by_folders(tree: Tree, naming: Naming, name: str, entries: Sequence[str]) -> Found | None:
    """The reading without the file, which is said."""
    found = folders.recognise(tree, naming)
    if found is None:
        return None
    what = f"names {', '.join(entries)} for training, where no image is" if entries else "names no training images"
    return replace(
        found, rank=0, remarks=[f"{tree.path(name).name} {what}: its splits are taken from the folders instead"]
    )


def _names_of(tree: Tree, part: Part) -> list[str]:
    return [image.relative_to(tree.root).as_posix() for image, _ in part.pairs if image is not None]


def _splits(content: Mapping[str, Any], naming: Naming) -> dict[str, tuple[str, list[str]]]:
    """(key, entries) of each split, in the order of `SPLITS`; keys in any spelling (`Train`, `valid`)."""
    found: dict[str, tuple[str, list[str]]] = {}
    for key, value in content.items():
        split = naming.of(str(key))
        if split in (None, LEFT_OUT) or not value or str(key).lower() in ("names", "nc"):
            continue
        entries = [str(entry) for entry in value] if isinstance(value, list) else [str(value)]
        word = _last_word(entries[0])
        found.setdefault(split, (word if naming.of(word) == split else str(key), entries))
    return {split: found[split] for split in SPLITS if split in found}


def _last_word(entry: str) -> str:
    """The folder that names the split in `../valid/images`."""
    words = [part for part in PureWindowsPath(entry).parts if usual_split(part)]
    return PureWindowsPath(words[-1]).stem if words else ""


class _Places:
    """Finds the images of an entry: a folder, a text list, or one image; below the file's own root."""

    def __init__(self, tree: Tree, folder: Path, content: Mapping[str, Any]):
        self.tree = tree
        path = Path(str(content.get("path") or "").replace("\\", "/")).expanduser()
        self.bases = [base for base in (path if path.is_absolute() else folder / path, folder) if base.is_dir()]

    def images(self, entry: str) -> Iterator[str]:
        place = self._place(entry.replace("\\", "/"))
        if place is None:
            return
        if place in self.tree:
            yield from self._listed(place) if place.endswith(".txt") else [place]
        prefix = f"{place}/" if place else ""
        yield from (image for image in self.tree.images if image.startswith(prefix) and place not in self.tree)

    def _place(self, entry: str) -> str | None:
        """The entry as a name below the root; None where there is nothing."""
        plain = entry.strip().removeprefix("./").rstrip("/")
        spellings = dict.fromkeys([plain, plain.removeprefix("../"), *(_tails(plain))])
        for spelling in spellings:
            for base in self.bases:
                path = base / spelling
                if path.exists():
                    resolved = path.resolve()
                    if resolved.is_relative_to(self.tree.root.resolve()):
                        name = resolved.relative_to(self.tree.root.resolve()).as_posix()
                        return "" if name == "." else name
        return None

    def _listed(self, name: str) -> Iterator[str]:
        """The images of a text list, named from its folder, the root, or with a folder too many in front."""
        rows = [line for line in read_lines(self.tree.path(name)) if line and not line.startswith("#")]
        find = ImageNames(self.tree, [parent_of(name), "", *self.tree.image_folders])
        find.settle(rows)
        for row in rows:
            path = find.find(row)
            if path is not None:
                yield path.relative_to(self.tree.root).as_posix()
        if find.missing:
            raise DataError(
                f"{self.tree.path(name)}: {len(find.missing):,} of {len(rows):,} images are not there "
                f"({', '.join(find.missing[:3])}); looked in {find.tried()}"
            )


def _tails(entry: str) -> Iterator[str]:
    """The entry without its first parts, for paths of another machine."""
    parts = [part for part in PureWindowsPath(entry).parts if part not in ("/", "\\", "..")]
    for start in range(
        1 if PureWindowsPath(entry).is_absolute() or entry.startswith(("/", "..")) else len(parts), len(parts)
    ):
        yield "/".join(parts[start:])
