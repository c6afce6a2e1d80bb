"""labelme: a JSON for each image, beside it or in a folder of their own."""

from anchorlab.data.labelme import labelme_entries
from anchorlab.data.labels import partners_of, sample
from anchorlab.data.layout import Found, Part, by_split
from anchorlab.data.layouts.coco import ends_of
from anchorlab.data.naming import Naming
from anchorlab.data.tree import Tree, parent_of

FORMAT = "labelme"


def recognise(tree: Tree, naming: Naming) -> Found | None:
    files = tree.with_suffix(".json")
    looks = [_is_labelme(tree, name) for name in sample(files)]
    if not any(looks):
        return None
    files = files if all(looks) else [name for name in files if _is_labelme(tree, name)]
    groups, unused = by_split(files, naming.of_folder)
    partners = partners_of(files, tree.images)
    parts = {
        split: Part(
            name=next((folder for folder in names[0].split("/")[:-1] if naming.of(folder) == split), ""),
            pairs=[(tree.path(partners[name]) if name in partners else None, tree.path(name)) for name in names],
            folders=["", *tree.image_folders],
        )
        for split, names in groups.items()
    }
    where = f"{parent_of(files[0])}/*.json".strip("/")
    return Found("labelme", FORMAT, labelme_entries, parts, where, unused={"files": unused})


def _is_labelme(tree: Tree, name: str) -> bool:
    ends = ends_of(tree.path(name))
    return any(b'"shapes"' in end for end in ends) and any(b'"imagePath"' in end for end in ends)
