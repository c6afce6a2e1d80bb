"""VGG Image Annotator: one JSON with all regions, or one a split beside its images."""

from anchorlab.data.layout import Found, by_split
from anchorlab.data.layouts.coco import ends_of
from anchorlab.data.layouts.named_files import parts_of
from anchorlab.data.naming import Naming
from anchorlab.data.tree import Tree
from anchorlab.data.via import via_entries

FORMAT = "via"


def recognise(tree: Tree, naming: Naming) -> Found | None:
    files = [
        name
        for name in tree.with_suffix(".json")
        if any(b'"shape_attributes"' in end for end in ends_of(tree.path(name)))
    ]
    groups, unused = by_split(files, naming.of_path)
    parts = parts_of(tree, naming, groups)
    return Found("VIA", FORMAT, via_entries, parts, files[0], unused={"files": unused}) if files else None
