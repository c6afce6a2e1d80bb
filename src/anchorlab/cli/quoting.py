"""Paths and texts as people type them -> overrides that Hydra's grammar reads as just that.

`data.root=~/josé (1)` holds four things that Hydra takes for its own: `~`, a letter that is no ASCII, a blank and
parentheses. Values of settings that are places or texts are therefore quoted before Hydra sees them. What is quoted
already stays as it is, so that a sweep over paths is written with quotes: `data.root='a','b'`.
"""

import os
import re

TEXTS = frozenset(
    (
        *("root", "cache_folder", "folder", "output", "source", "run", "runs", "image", "photos", "start", "resume"),
        *("dir", "weights", "baseline", "categories", "entity", "project", "name", "tags", "group", "notes", "url"),
    )
)
"""Last words of keys whose value is a place or a text."""
READER = ("images", "annotations", "train", "val", "test")
"""Those of `data.reader`; elsewhere these words are something else (`callbacks.pictures.images=4`)."""
PLAIN = re.compile(r"true|false|[+-]?\d+(\.\d+)?", re.IGNORECASE)
LISTS = frozenset(["source", "run", "runs", "photos", "categories", "tags"])
"""Those that may also be a list, `[a,b]`."""
FUNCTION = re.compile(r"(choice|glob|sort|shuffle|tag|range|interval|extend_list)\(.*\)", re.DOTALL)
AS_IT_IS = ("", "null", "???")


def quoted(argument: str) -> str:
    """An argument of the command line with its value quoted where that is a place or a text, `~` and `$HOME` expanded.

    Of other settings a value that holds a further `=` is quoted. Options, choices of files and values that are quoted
    already come back as they are.
    """
    key, sign, value = argument.partition("=")
    if not sign or key.startswith("-"):
        return argument
    group, _, word = key.lstrip("+").rpartition(".")
    if (word in TEXTS and not (PLAIN.fullmatch(value) and word != "root")) or (
        group == "data.reader" and word in READER
    ):
        return f"{key}={_text(value, may_be_list=word in LISTS)}"
    if "=" in value and value[0] not in "'\"[{" and "(" not in value:
        return f"{key}={in_quotes(value)}"
    return argument


def in_quotes(text: str) -> str:
    """A text in single quotes. Hydra's grammar reads a backslash as itself, except in front of a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"


def _text(value: str, may_be_list: bool) -> str:
    if value in AS_IT_IS or _is_quoted(value) or FUNCTION.fullmatch(value) or "${" in value:
        return value
    if may_be_list and value.startswith("[") and value.endswith("]"):
        items = (item.strip() for item in value[1:-1].split(","))
        return value if "'" in value or '"' in value else f"[{','.join(map(_item, items))}]"
    return in_quotes(os.path.expandvars(os.path.expanduser(value)))


def _item(text: str) -> str:
    return text if text in AS_IT_IS else in_quotes(os.path.expandvars(os.path.expanduser(text)))


def _is_quoted(value: str) -> bool:
    """Whether a value is in quotes, or several are, with commas between them."""
    one = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
    return re.fullmatch(rf"(?:{one})(?:,(?:{one}))*", value, re.DOTALL) is not None
