"""Tables of boxes: one CSV, or one a split; Open Images. Often made from other annotations, which then go first."""

from anchorlab.data.layout import Found, by_split
from anchorlab.data.layouts.named_files import parts_of
from anchorlab.data.naming import Naming
from anchorlab.data.sample import DataError
from anchorlab.data.table import read_table, table_entries
from anchorlab.data.text import decode_text
from anchorlab.data.tree import Tree

FORMAT = "csv"
LOOKED_INTO = 1 << 16  # bytes


def recognise(tree: Tree, naming: Naming) -> Found | None:
    tables = {name: table for name in tree.with_suffix(".csv", ".tsv") if (table := read_table(_head(tree, name), 20))}
    if not tables or not tree.images:
        return None
    groups, unused = by_split(tables, naming.of_path)
    for split, names in groups.items():
        if len(names) > 1:
            shown = " or ".join(f"data.root={tree.path(name)}" for name in names[:4])
            raise DataError(
                f"data.root={tree.root} holds {len(names)} tables for {split}: name the one that is meant, {shown}"
            )
    layout = "Open Images" if any(table.shares for table in tables.values()) else "CSV"
    where = next(iter(tables))
    parts = parts_of(tree, naming, groups)
    return Found(layout, FORMAT, table_entries, parts, where, derived=True, unused={"tables": unused})


def _head(tree: Tree, name: str) -> str:
    """Whole lines from the beginning of a file."""
    with tree.path(name).open("rb") as file:
        data = file.read(LOOKED_INTO)
    return decode_text(data if len(data) < LOOKED_INTO else data[: data.rfind(b"\n") + 1])
