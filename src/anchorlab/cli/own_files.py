"""Files of choices that a person wrote (conf/experiment/mine.yaml): held to the rules of the command line.

Hydra merges whatever a file holds; a key that is misspelt there, or under the wrong package, would change nothing and
be read by nobody. This module reads the files before Hydra does, and knows nothing of overrides.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from anchorlab.config.settings import check_keys, leaf_keys
from anchorlab.errors import SettingError

PACKAGE = re.compile(r"^#\s*@package\s+(\S+)", re.MULTILINE)
GLOBAL = "_global_"


@dataclass(frozen=True)
class OwnFile:
    """One file: its place, the config group of its folder, the package that its settings lie in, and its settings."""

    path: Path
    group: str
    package: str
    settings: Mapping[str, Any]
    defaults: Sequence[Any]

    @property
    def is_global(self) -> bool:
        """Whether its settings are written from the root of the config."""
        return self.package == GLOBAL

    def nested(self) -> dict[str, Any]:
        """Its settings as they lie in the whole config."""
        settings = dict(self.settings)
        for name in reversed([] if self.is_global else self.package.split(".")):
            settings = {name: settings}
        return settings


def read_own_files(folder: Path, choices: Iterable[tuple[str, str]]) -> list[OwnFile]:
    """The files below `folder` that are chosen, as (group, choice), and those that their lists of defaults choose.

    Raises:
        SettingError: a file that cannot be read, or holds no settings.
    """
    found: dict[Path, OwnFile] = {}
    waiting = list(choices)
    while waiting:
        group, choice = waiting.pop(0)
        path = folder / group / f"{choice.removesuffix('.yaml')}.yaml"
        if path.is_file() and path not in found:
            found[path] = _read(path, group)
            waiting += _chosen_by(found[path])
    return list(found.values())


def check_own_files(files: Iterable[OwnFile], reference: Mapping[str, Any]) -> None:
    """Raise SettingError for the first setting in `files` that does not exist, with the name of the file.

    Args:
        files: such as set what other groups have, from anywhere in the config.
        reference: the config of the same choices without them.
    """
    for file in files:
        if not file.is_global and file.package not in reference and file.settings:
            first = next(iter(leaf_keys(file.nested())))
            raise SettingError(
                f"{file.path} sets {first}, which nothing reads: begin the file with the line `# @package {GLOBAL}`"
            )
        with naming([file]):
            check_keys(file.nested(), reference)


def sets_others(file: OwnFile, config_dir: Path) -> bool:
    """Whether a file sets what other groups have, as it says itself or as AnchorLab's own of its group do."""
    texts = (path.read_text(encoding="utf-8") for path in (config_dir / file.group).glob("*.yaml"))
    return file.is_global or any(GLOBAL in PACKAGE.findall(text) for text in texts)


@contextmanager
def naming(files: Sequence[OwnFile], typed: Iterable[str] = ()) -> Iterator[None]:
    """Put a file's name before the sentence of a SettingError on a setting that this file holds.

    Args:
        typed: settings of the command line, which no file is to blame for.
    """
    try:
        yield
    except SettingError as error:
        key = re.match(r"[\w.]*\w", str(error))
        name = key[0] if key else ""
        guilty = next((file.path for file in files if _holds(file.nested(), name)), None)
        if guilty is None or name in typed:
            raise
        raise SettingError(f"{guilty}: {error}") from error


@contextmanager
def naming_recipe(files: Sequence[OwnFile], typed: Iterable[str] = ()) -> Iterator[None]:
    """Say which recipe sets what a part does not take that the command chose in place of the recipe's own.

    Args:
        files: the chosen ones; recipes are those that set what other groups have.
        typed: as `naming`'s.
    """
    try:
        yield
    except SettingError as error:
        found = re.match(r"([\w.]+) is not possible: \w+ takes", str(error))
        recipes = [file for file in files if file.is_global and found and _holds(file.settings, found[1])]
        if found is None or not recipes or found[1] in typed:
            raise
        recipe = f"{recipes[0].group}={recipes[0].path.stem}"
        raise SettingError(f"{error}; {recipe} sets it, and '~{found[1]}' takes it out") from error


def _holds(settings: Mapping[str, Any], key: str) -> bool:
    return any(leaf == key or leaf.startswith(f"{key}.") for leaf in leaf_keys(settings))


def _read(path: Path, group: str) -> OwnFile:
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        why = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else str(error) or type(error).__name__
        raise SettingError(f"{path} cannot be read as YAML: {why}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise SettingError(f"{path} holds a {type(content).__name__}: write settings, a line `key: value` each")
    settings = {str(key): value for key, value in content.items() if key != "defaults"}
    defaults = content.get("defaults") or []
    if not isinstance(defaults, list):
        raise SettingError(f"{path}: defaults={defaults} is not possible: it must be a list, `- override /anchor: fpn`")
    package = PACKAGE.search(text)
    named = package[1] if package else "_group_"
    return OwnFile(path, group, group.replace("/", ".") if named == "_group_" else named, settings, defaults)


def _chosen_by(file: OwnFile) -> list[tuple[str, str]]:
    """Group and choice of each entry in a file's list of defaults: `- other`, `- override /anchor: fpn`."""
    found: list[tuple[str, str]] = []
    for entry in file.defaults:
        pairs = entry.items() if isinstance(entry, dict) else [("", entry)]
        for key, choices in pairs:
            place = str(key).removeprefix("optional ").removeprefix("override ").partition("@")[0]
            group = place.lstrip("/") if place.startswith("/") or not place else f"{file.group}/{place}"
            names = choices if isinstance(choices, list) else [choices]
            found += [(group or file.group, name) for name in names if isinstance(name, str) and name != "_self_"]
    return found
