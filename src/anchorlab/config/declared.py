"""Declarations of a class, read from its source text: importing it would import torch.

Only what the class's own body says counts, as plain values and annotations; what it inherits does not.
"""

import ast
import collections.abc
import contextlib
import sys
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import annotated_types

from anchorlab import signatures
from anchorlab.exports import home_of


def attribute(target: str, name: str) -> Any:
    """The value of an attribute that the class `target` (its dotted name) sets in its body; None where it sets none."""
    node = _definition(target)
    for line in node.body if isinstance(node, ast.ClassDef) else []:
        named = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        if isinstance(named, ast.Name) and named.id == name:
            return _plain(getattr(line, "value", None))
    return None


def annotations(target: str) -> dict[str, Any]:
    """The annotations of a class's or function's own arguments, where they are made of plain types and ranges."""
    names = {**vars(typing), **vars(collections.abc), **vars(annotated_types), **vars(signatures), "Path": Path}
    found: dict[str, Any] = {}
    given = _arguments(target)
    for argument in [] if given is None else [*given.args, *given.kwonlyargs]:
        if argument.annotation is None:
            continue
        with contextlib.suppress(Exception):  # a type that only the module knows, such as a Tensor
            found[argument.arg] = eval(ast.unparse(argument.annotation), names)
    return found


def defaults(target: str) -> dict[str, Any]:
    """The defaults of a class's or function's own arguments, where they are plain values."""
    given = _arguments(target)
    if given is None:
        return {}
    positional = [*given.posonlyargs, *given.args]
    pairs = list(zip(positional[len(positional) - len(given.defaults) :], given.defaults, strict=True))
    pairs += [(argument, value) for argument, value in zip(given.kwonlyargs, given.kw_defaults, strict=True) if value]
    return {argument.arg: _plain(value) for argument, value in pairs}


def targets(node: Any) -> Iterator[Any]:
    """The names of classes in settings, however deep."""
    if isinstance(node, Mapping):
        if node.get("_target_") is not None:
            yield node["_target_"]
        for child in node.values():
            yield from targets(child)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from targets(child)


def _arguments(target: str) -> ast.arguments | None:
    node = _definition(target)
    if isinstance(node, ast.ClassDef):
        node = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    return node.args if isinstance(node, ast.FunctionDef) else None


@cache
def _definition(target: str) -> ast.stmt | None:
    module, _, name = home_of(target).rpartition(".")
    for folder in sys.path if module else ():
        place = Path(folder or ".", *module.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                body = ast.parse(path.read_text(encoding="utf-8")).body
                return next((node for node in body if getattr(node, "name", None) == name), None)
    return None


def _plain(node: ast.expr | None) -> Any:
    """A literal's value; of anything else an object that equals nothing."""
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return object()
