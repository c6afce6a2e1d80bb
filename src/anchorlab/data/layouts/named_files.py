"""Annotation files that cover many images each, one or more a split: where their images may lie."""

from collections.abc import Mapping, Sequence

from anchorlab.data.layout import Part, folders_for
from anchorlab.data.naming import Naming
from anchorlab.data.tree import Tree, parent_of, stem_of


def parts_of(tree: Tree, naming: Naming, groups: Mapping[str, Sequence[str]]) -> dict[str, Part]:
    """The parts of files that are grouped by split."""
    return {
        split: Part(
            name="",
            files=[tree.path(name) for name in files],
            folders=list(
                dict.fromkeys(
                    folder
                    for name in files
                    for folder in folders_for(tree, parent_of(name), stem_of(name), split, naming)
                )
            ),
        )
        for split, files in groups.items()
    }
