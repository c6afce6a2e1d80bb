"""Labels for settings, as a person types them: `assigner=atss` instead of the class that the choice stands for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from anchorlab.config import declared
from anchorlab.config.moved import with_current_names, with_old_names

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


def as_asked_for(
    settings: Sequence[Mapping[str, Any]], contents: Sequence[Mapping[str, Any]], choices: Choices
) -> list[dict[str, Any]]:
    """Settings of runs (dotted keys), where one worked out a group by itself in the words that asked it to.

    After `anchor=fit anchor.k=3` a run's config holds widths and heights: here it has `anchor._target_: fit` and
    `anchor.k: 3` in their place, and the other runs' group is called by its choice, too. Where that would make
    different settings equal, all stay as they are.

    Args:
        contents: run.json of each, which keeps the choices and what was typed.
    """
    asked = [dict(of_run) for of_run in settings]
    for (group, cls), choice in choices.items():
        key, made = f"{group}{TARGET}", [_choice_of(content, group) for content in contents]
        worked_out = [
            name == choice and of_run.get(key) not in (None, cls) and key not in _typed(content)
            for name, of_run, content in zip(made, settings, contents, strict=True)
        ]
        if not any(worked_out):
            continue
        for at, content in enumerate(contents):
            if worked_out[at]:
                own = _own_words(group, cls, settings[at], _typed(content))
                others = {name: value for name, value in asked[at].items() if not name.startswith(f"{group}.")}
                asked[at] = others | {key: choice} | own
            elif made[at] is not None and key in asked[at]:
                asked[at][key] = made[at]
    return asked if _distinct(asked) == _distinct(settings) else [dict(of_run) for of_run in settings]


def _own_words(group: str, cls: Any, settings: Mapping[str, Any], typed: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of a choice's class: as they were typed, else as the run's config has them, else the defaults."""
    arguments = declared.defaults(with_current_names({"_target_": cls})["_target_"])
    found = {f"{group}.{name}": value for name, value in arguments.items()}
    found |= {key: settings[key] for key in found if key in settings}
    return found | {key: yaml.safe_load(typed[key]) for key in found if key in typed}


def _choice_of(content: Mapping[str, Any], group: str) -> str | None:
    return (content.get("choices") or {}).get(group) or _typed(content).get(group)


def _typed(content: Mapping[str, Any]) -> dict[str, str]:
    parts = (override.lstrip("+~").partition("=") for override in content.get("overrides") or ())
    return {key: value for key, _, value in parts}


def _distinct(settings: Sequence[Mapping[str, Any]]) -> int:
    return len({tuple(sorted((key, shown(value)) for key, value in of_run.items())) for of_run in settings})
