"""Labels for settings, as a person types them: `assigner=atss` instead of the class that the choice stands for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from anchorlab.config.moved import with_old_names

TARGET = "._target_"

Choices = Mapping[tuple[str, str | None], str]
"""A group and a class (None: none) -> the group's one choice that brings the class in."""


def choices_of(configs: Path) -> Choices:
    """Of the groups below a folder of configs; without a class that several choices of its group bring in."""
    named: dict[tuple[str, str | None], list[str]] = {}
    for file in sorted(configs.glob("*/*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "_target_" in content:
            target = with_old_names(content)["_target_"]  # as `settings_that_count` gives classes
            named.setdefault((file.parent.name, target), []).append(file.stem)
    return {key: names[0] for key, names in named.items() if len(names) == 1}


def as_typed(key: str, value: Any, choices: Choices) -> str:
    """The value of a dotted key: the choice where it is a group's class."""
    group = key.removesuffix(TARGET)
    known = choices.get((group, value)) if group != key else None
    return shown(value) if known is None else known


def shown(value: Any) -> str:
    """A setting as one types it; a class by its own name."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(shown(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text.rsplit(".", 1)[-1] if text.startswith(("anchorlab.", "torch.")) else text
