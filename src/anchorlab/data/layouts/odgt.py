"""CrowdHuman: annotation_train.odgt, annotation_val.odgt, and the images in any folders."""

from anchorlab.data.layout import Found, by_split
from anchorlab.data.layouts.named_files import parts_of
from anchorlab.data.naming import Naming
from anchorlab.data.odgt import odgt_entries
from anchorlab.data.tree import Tree

FORMAT = "odgt"


def recognise(tree: Tree, naming: Naming) -> Found | None:
    files = tree.with_suffix(".odgt")
    groups, unused = by_split(files, naming.of_path)
    parts = parts_of(tree, naming, groups)
    return Found("CrowdHuman", FORMAT, odgt_entries, parts, files[0], unused={"lists": unused}) if files else None
