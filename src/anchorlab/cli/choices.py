"""Choices of config groups as people type them -> as Hydra takes them: `quality=null`, `~callbacks`, `+anchor=fpn`.

What can only mean one thing is read so; what would take away a group that every run needs is refused.
"""

from collections.abc import Iterable
from pathlib import Path

import yaml

from anchorlab.config.settings import unknown_choice
from anchorlab.errors import SettingError

NOTHING = ("null", "[]", "")
"""What people write where a group is to choose nothing."""
NONE = "none"


def as_meant(arguments: Iterable[str], config_name: str, config_dir: Path) -> list[str]:
    """The arguments of a command line, with those that choose a file of a group as Hydra takes them.

    Nothing (`null`, `[]`, `~group`) is the choice `none`, and no argument at all where a group chooses nothing by
    default. A `+` before a group that the command has is left out.

    Raises:
        SettingError: nothing is chosen for a group that has no choice `none`.
    """
    defaults = group_defaults(config_name, config_dir)
    found = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        group = key.lstrip("+~")
        chooses = bool(sign) or key.startswith("~")  # else it is a word of an option's: -p data
        if not chooses or group not in defaults or not (config_dir / group).is_dir():
            found.append(argument)
            continue
        values = ["null"] if key.startswith("~") else [value] if value in NOTHING else value.split(",")
        if not any(value in NOTHING for value in values):
            found.append(f"{group}={value}")
            continue
        choices = sorted(path.stem for path in (config_dir / group).glob("*.yaml"))
        if NONE in choices:
            found.append(f"{group}={','.join(NONE if value in NOTHING else value for value in values)}")
        elif defaults[group] is not None or len(values) > 1:
            raise SettingError(unknown_choice(group, "null", choices))
    return found


def group_defaults(config_name: str, config_dir: Path) -> dict[str, str | None]:
    """By config group, what a command chooses where nothing is typed."""
    config = yaml.safe_load((config_dir / f"{config_name}.yaml").read_text(encoding="utf-8"))
    pairs = [pair for entry in config.get("defaults", []) if isinstance(entry, dict) for pair in entry.items()]
    return {group: choice for group, choice in pairs if not group.startswith("override ")}
