"""Paths and texts as people type them -> overrides that Hydra's grammar reads as just that.

`data.root=~/josé (1)` holds four things that Hydra takes for its own: `~`, a letter that is no ASCII, a blank and
parentheses. Values of settings that are places or texts are therefore quoted before Hydra sees them. What is quoted
already stays as it is, so that a sweep over paths is written with quotes: `data.root='a','b'`.
"""

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from anchorlab.config import declared
from anchorlab.config.settings import COMMAND_SETTINGS
from anchorlab.signatures import holds_text, is_text

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
"""Settings of Hydra's own that are places."""
PLAIN = re.compile(r"true|false|[+-]?\d+(\.\d+)?", re.IGNORECASE)
FUNCTION = re.compile(r"(choice|glob|sort|shuffle|tag|range|interval|extend_list)\(.*\)", re.DOTALL)
TARGET = re.compile(r"^\s*_target_:\s*([\w.]+)", re.MULTILINE)
AS_IT_IS = ("", "null", "???")


def quoted(argument: str, config_dir: Path) -> str:
    """An argument of the command line with its value quoted where that is a place or a text, `~` and `$HOME` expanded.

    What a setting may hold tells whether it is one: `COMMAND_SETTINGS` says so of the commands' own settings, the
    signatures of the classes that the choices in `config_dir` name of those of a group.

    Of other settings a value that holds a further `=` is quoted. Options, choices of files and values that are quoted
    already come back as they are.
    """
    key, sign, value = argument.partition("=")
    if not sign or key.startswith("-"):
        return argument
    plain_key = key.lstrip("+")
    kinds = _kinds(plain_key, config_dir)
    is_list = any(holds_text(kind, in_list=True) for kind in kinds)
    # A folder may be called 2007; elsewhere a number or true is meant as one.
    is_place = plain_key == "root" or plain_key.startswith("data.")
    is_place = is_place or (plain_key in COMMAND_SETTINGS and all(map(is_text, kinds)))
    if (is_list or any(map(holds_text, kinds))) and (is_place or not PLAIN.fullmatch(value)):
        return f"{key}={_text(value, is_list)}"
    if "=" in value and value[0] not in "'\"[{" and "(" not in value:
        return f"{key}={in_quotes(value)}"
    return argument


def _kinds(key: str, config_dir: Path) -> list[Any]:
    """What the setting may hold, as far as annotations say so."""
    if key in COMMAND_SETTINGS:
        return [COMMAND_SETTINGS[key]]
    if key in FOLDERS:
        return [Path]
    group, _, rest = key.partition(".")
    return _of_group(config_dir / group).get(rest.rpartition(".")[2], [])


@cache
def _of_group(folder: Path) -> dict[str, list[Any]]:
    """Annotations by argument, of all classes that a group's choices name."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml"))]
    found: dict[str, list[Any]] = {}
    for target in dict.fromkeys(name for text in texts for name in TARGET.findall(text)):
        for name, annotation in declared.annotations(target).items():
            found.setdefault(name, []).append(annotation)
    return found


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
