"""HTML of what notebooks show of an object (`_repr_html_`): tables and pictures, every text escaped."""

import base64
import html
from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table; numbers with a point have three digits behind it."""
    parts = ["<table>", f"<caption>{html.escape(caption)}</caption>" if caption else ""]
    parts += ["<tr>", *(f"<th>{html.escape(head)}</th>" for head in heads), "</tr>"]
    for row in rows:
        parts += ["<tr>", *(f"<td>{html.escape(shown(cell))}</td>" for cell in row), "</tr>"]
    return "".join([*parts, "</table>"])


def shown(cell: object) -> str:
    """A cell as text; nothing for None."""
    return "" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def picture(png: bytes, name: str, width: int = 480) -> str:
    """A PNG inside the page."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<img alt="{html.escape(name)}" title="{html.escape(name)}" width="{width}" src="{source}">'
