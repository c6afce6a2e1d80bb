"""Help page of a command (`--help`): what it does, its choices, and where the settings are; composes no
config.

Hydra's own page composes every setting and takes seconds to list the groups; this one reads file names. Nothing is
imported but YAML.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from anchorlab.cli.choices import group_defaults

SWEEP = {"-m": "sweep: key=value,value trains one run for each"}
OPTIONS = {
    "--cfg job": "show every setting, as your choices compose them, and stop",
    "--config-dir": "a folder of more choices, in place of conf/ in the working folder",
    "--help": "this page; --hydra-help for what Hydra itself offers",
}


def usage(config_name: str, config_dirs: Sequence[Path], about: str) -> str:
    """The page of a command, headed by `about`: its config is <config_name>.yaml in the first folder, and the other
    folders add choices."""
    text = (config_dirs[0] / f"{config_name}.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    chosen = group_defaults(config_name, config_dirs[0])
    groups = {group: _choices([folder / group for folder in config_dirs], choice) for group, choice in chosen.items()}
    parts = {
        "Groups: group=choice picks a file of conf/<group>; * is what you get otherwise.": groups,
        "Settings: key=value; those of a group are group.key=value, and --cfg job shows them.": _settings(config, text),
        "Options:": (SWEEP if {"override hydra/sweeper": "anchorlab"} in config.get("defaults", []) else {}) | OPTIONS,
    }
    width = max(len(name) for rows in parts.values() for name in rows)
    lines = about.strip().splitlines()
    for title, rows in parts.items():
        if rows:
            lines += ["", title, *(f"  {name:<{width}}  {said}" for name, said in rows.items())]
    return "\n".join(lines)


def _choices(folders: Sequence[Path], chosen: str | None) -> str:
    names = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    return "  ".join(f"{name}*" if name == chosen else name for name in names)


def _settings(config: dict[str, Any], text: str) -> dict[str, str]:
    """Default and comment of each setting outside of the groups, as the file writes them."""
    comments, shown = _comments(text), {}
    for key, value in config.items():
        if key not in ("defaults", "hydra"):
            children = {f"{key}.{name}": child for name, child in value.items()} if isinstance(value, dict) else {}
            shown |= {name: _line(child, comments.get(name, "")) for name, child in (children or {key: value}).items()}
    return shown


def _comments(text: str) -> dict[str, str]:
    """Dotted key -> comment behind it, for keys of the first two levels."""
    comments, parent = {}, ""
    for indent, key, comment in re.findall(r"^( {0,2})(\w+):(?:.*?#\s*(.*))?$", text, re.MULTILINE):
        parent = parent if indent else key
        comments[f"{parent}.{key}" if indent else key] = comment
    return comments


def _line(value: Any, comment: str) -> str:
    written = json.dumps(value) if value is None or isinstance(value, bool) else value
    return f"{written!s:<8}  {comment}".rstrip()
