"""VOC: XML files and the images of their names, in any folders; divided by ImageSets/Main, lists of pairs or folders.

VOC2007 and its likes, Roboflow (train, valid, test), LabelImg, CVAT, FiftyOne, Kaggle, PaddleDetection.
"""

import re
from collections.abc import Mapping, Sequence

from anchorlab.data.labels import partners_of
from anchorlab.data.layout import Found, Part, Template, by_split
from anchorlab.data.naming import Naming, is_trainval
from anchorlab.data.sample import SPLITS, DataError
from anchorlab.data.text import read_lines, read_text
from anchorlab.data.tree import Tree, parent_of, stem_of, without_suffix
from anchorlab.data.voc import voc_entries

FORMAT = "voc"
LISTS = "ImageSets/Main"
LOOKED_INTO = 5
FLAG = re.compile(r"\s+-?[01]$")


def recognise(tree: Tree, naming: Naming) -> Found | None:
    xmls = tree.with_suffix(".xml")
    if not xmls or not any("<annotation" in read_text(tree.path(name))[:2000] for name in xmls[:LOOKED_INTO]):
        return None
    parts, unused = voc_parts(tree, naming, xmls, tree.images)
    return Found(_layout(tree, xmls), FORMAT, voc_entries, parts, _where(xmls), unused=unused)


def recognise_at(tree: Tree, naming: Naming, template: Template) -> Found:
    """VOC whose images and XML lie in the given folders; lists of ImageSets/Main still divide it."""
    places = list(template.places(tree, naming))
    images, annotations = (tuple(f"{place[i]}/" if place[i] else "" for place in places) for i in (2, 3))
    xmls = [name for name in tree.with_suffix(".xml") if name.startswith(annotations)]
    pictures = [name for name in tree.images if name.startswith(images)]
    parts, unused = voc_parts(tree, naming, xmls, pictures) if xmls else ({}, {})
    return Found("VOC", FORMAT, voc_entries, parts, str(template), unused=unused)


def voc_parts(
    tree: Tree, naming: Naming, xmls: Sequence[str], images: Sequence[str]
) -> tuple[dict[str, Part], dict[str, int]]:
    """Parts, and what is left over. `DataError` for lists that are those of several data sets, or of no split."""
    lists = [name for name in tree.with_suffix(".txt") if f"{LISTS}/" in f"/{name}"]
    bases = {name[: name.rindex(LISTS)] for name in lists}
    if len(bases) > 1:
        roots = " or ".join(str(tree.path(base)) for base in sorted(bases))
        raise DataError(f"data.root={tree.root} holds several VOC data sets: set data.root to {roots}")
    lists = lists or _pair_lists(tree)
    groups, left_over = _listed(tree, naming, lists, xmls) if lists else by_split(xmls, naming.of_path)
    partners = partners_of(xmls, images)
    parts = {}
    for split, names in groups.items():
        pairs = [(partners.get(name), name) for name in names]
        folders = dict.fromkeys(
            ["", *(parent_of(name) for name in names[:1]), "images", "JPEGImages", *tree.image_folders]
        )
        parts[split] = Part(
            name=_name(split, lists, names, naming),
            pairs=[(None if image is None else tree.path(image), tree.path(name)) for image, name in pairs],
            folders=list(folders),
        )
    return parts, {"annotations": left_over}


def _listed(tree: Tree, naming: Naming, lists: Sequence[str], xmls: Sequence[str]) -> tuple[dict[str, list[str]], int]:
    """The annotations of each list, in its order; of lists for one split the plainest name counts."""
    chosen: dict[str, str] = {}
    for name in sorted(lists, key=lambda name: (is_trainval(stem_of(name)), len(stem_of(name)), name)):
        split = naming.of(stem_of(name))
        if split in SPLITS and "_" not in stem_of(name).replace("train_val", ""):
            chosen.setdefault(split, name)
    if not chosen:
        words = ", ".join(sorted(stem_of(name) for name in lists))
        raise DataError(
            f"{tree.path(parent_of(lists[0]))} holds none of train.txt, val.txt, test.txt: "
            f"set data.reader.train, val and test to some of {words}"
        )
    by_stem = {stem_of(name): name for name in reversed(xmls)}
    by_name = {without_suffix(name): name for name in xmls}
    folder = parent_of(xmls[0]) if xmls else "Annotations"
    groups: dict[str, list[str]] = {}
    for split in (split for split in SPLITS if split in chosen):
        rows = [line for line in read_lines(tree.path(chosen[split])) if line]
        groups[split] = [_annotation(row, by_name, by_stem, folder) for row in rows]
    taken = {name for names in groups.values() for name in names}
    return groups, len(set(xmls) - taken)


def _annotation(row: str, by_name: Mapping[str, str], by_stem: Mapping[str, str], folder: str) -> str:
    """The XML that a line of a list means: a stem (with blanks), a name, a path, a pair, or any of them and a flag.

    Lists of one category have a second column (1, 0, -1), which is about that category alone.
    """
    for text in (row, FLAG.sub("", row), *reversed(row.split())):
        plain = text.replace("\\", "/").strip("./")
        for name in (plain, without_suffix(plain)):
            if name in by_name:
                return by_name[name]
            if stem_or_name(name) in by_stem:
                return by_stem[stem_or_name(name)]
    return f"{folder}/{stem_or_name(FLAG.sub('', row))}.xml"


def stem_or_name(name: str) -> str:
    return name.rpartition("/")[2]


def _pair_lists(tree: Tree) -> list[str]:
    """PaddleDetection's: `train.txt` in the root whose lines are an image and its XML."""
    return [
        name
        for name in tree.with_suffix(".txt")
        if "/" not in name and any(line.endswith(".xml") for line in read_lines(tree.path(name))[:LOOKED_INTO])
    ]


def _name(split: str, lists: Sequence[str], names: Sequence[str], naming: Naming) -> str:
    """What the data set calls a split: the list's name, or the folder's."""
    if lists:
        stems = sorted((stem_of(name) for name in lists if naming.of(stem_of(name)) == split), key=len)
        return next((stem for stem in stems if not is_trainval(stem)), stems[0])
    return next((part for part in reversed(names[0].split("/")) if naming.of(part) == split), "")


def _layout(tree: Tree, xmls: Sequence[str]) -> str:
    if any(".rf." in name for name in xmls[:LOOKED_INTO]):
        return "Roboflow VOC"
    if any(f"{LISTS}/" in f"/{name}" for name in tree.with_suffix(".txt")):
        return "VOC"
    return "PaddleDetection VOC" if _pair_lists(tree) else "VOC annotations"


def _where(xmls: Sequence[str]) -> str:
    folder = parent_of(xmls[0])
    return f"{folder}/*.xml" if folder else "*.xml"
