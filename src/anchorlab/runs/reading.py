"""Border of a run's folder: what is read back is checked once, here, and has its expected kinds behind it.

A folder may be damaged, or come from a stranger. Nothing of it is executed or waited for, no link leads out of it, and
its size, depth and text stay within bounds. What each file holds is said where it is written (record.py and others).
"""

import json
import os
import re
import stat
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

import numpy as np
import yaml

from anchorlab.errors import DamagedFile
from anchorlab.installation import groups
from anchorlab.printable import printable
from anchorlab.runs.files import unpack_archive

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MIB = 2**20
DEEPEST = 40
"""Lists and mappings within each other; a run's own files have eight."""

Status = Literal["running", "paused", "interrupted", "finished", "failed"]
"""Running: what a killed run says, too. Paused: stopped on purpose before the end of its schedule, to be resumed
(`callbacks.stop_after`). Interrupted: a signal asked it to stop, and it can be resumed."""


# ------------------------------------------------------------------------------------------------------- files


def read_bytes(path: Path, limit: int = 16 * MIB) -> bytes:
    """The content of a file that lies in its folder.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it is no regular file, a link that leads out of the folder, or larger than `limit`.
        OSError: it cannot be read.
    """
    if path.is_symlink() and Path(os.path.realpath(path)).parent != Path(os.path.realpath(path.parent)):
        raise DamagedFile(
            f"{path} cannot be read: it is a link that leads out of the folder; put the file itself there"
        )
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(file, "rb") as opened:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode):
            raise DamagedFile(f"{path} cannot be read: it is no file")
        if state.st_size > limit:
            size = f"it has {state.st_size // MIB:,} MiB, and at most {limit // MIB:,} are read"
            raise DamagedFile(f"{path} cannot be read: {size}")
        return opened.read(limit + 1)


def read_text(path: Path, limit: int = 16 * MIB) -> str:
    """As `read_bytes`, of UTF-8; every failure but a missing file is a DamagedFile."""
    try:
        return read_bytes(path, limit).decode()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """A JSON file's plain values, with texts that can be shown.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it holds no JSON, or one of more than `DEEPEST` levels.
    """
    try:
        return _cleaned(json.loads(read_text(path)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(f"{path} cannot be read: {_first_line(error)}") from error


def read_yaml(path: Path) -> Any:
    """As `read_json`, of a YAML file; aliases (`*name`) are refused, since a few of them make gigabytes."""
    text = read_text(path, MIB)
    try:
        _check_events(text)
        return _cleaned(yaml.load(text, Loader=_Loader))
    except Exception as error:  # YAML's errors are no ValueError
        raise DamagedFile(f"{path} cannot be read: {_first_line(error)}") from error


def read_arrays(path: Path, limit: int = 1024 * MIB) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; `limit` holds for what they unpack to.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it is no such archive, or holds objects.
    """
    try:
        return unpack_archive(read_bytes(path, limit), limit)
    except (FileNotFoundError, DamagedFile):
        raise
    except Exception as error:  # numpy raises whatever zip, pickle or struct raise
        raise DamagedFile(f"{path} cannot be read: {_first_line(error)}") from error


def check_array(
    path: Path, arrays: dict[str, np.ndarray], name: str, kinds: str, shape: Iterable[int | None]
) -> np.ndarray:
    """An array of these kinds (numpy's letters, `iu` for integers) and this shape, None for any length.

    Raises:
        DamagedFile: it is missing or another one.
    """
    array = arrays.get(name)
    if array is None:
        raise DamagedFile(f"{path} holds no {name}")
    wanted = tuple(shape)
    fits = array.ndim == len(wanted) and all(
        side in (None, length) for side, length in zip(wanted, array.shape, strict=True)
    )
    if array.dtype.kind not in kinds or not fits:
        raise DamagedFile(f"{path} holds {name} of another kind or shape ({array.dtype}, {list(array.shape)})")
    return array


_FASTEST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML may come without libyaml


class _Loader(_FASTEST):
    """OmegaConf's reading of numbers (1e-4 is one) and dates (they are text) without its interpolations, fifteen times
    as fast: pages read hundreds of configs."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in _FASTEST.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*\.?[\d_]*[eE][-+]?\d+$"), list("-+0123456789.")
)


def _check_events(text: str) -> None:
    """Refuse what would cost time, memory or the stack once it is built: a parser's events cost none of them."""
    depth = 0
    for event in yaml.parse(text, Loader=_FASTEST):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it holds an alias (*name), which no run writes: write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} levels")


def _cleaned(value: Any, depth: int = 0) -> Any:
    """Plain values, texts by `printable`; raises ValueError for others, or deeper ones."""
    if depth > DEEPEST:
        raise ValueError(f"it has more than {DEEPEST} levels")
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_key(key): _cleaned(child, depth + 1) for key, child in value.items()}
    if isinstance(value, list):
        return [_cleaned(child, depth + 1) for child in value]
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    raise ValueError(f"it holds a {type(value).__name__} that is no plain value")


def _key(key: Any) -> Any:
    if isinstance(key, str):
        return printable(key)
    if isinstance(key, int):
        return key
    raise ValueError(f"it holds a {type(key).__name__} as a key")


def _first_line(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it has too many levels"
    lines = str(error).splitlines()
    return printable(lines[0]) if lines else type(error).__name__


# ----------------------------------------------------------------------------------------------------- schemas

NEEDED = ("data", "backbone", "anchor", "head", "proposals")
"""Groups without which no network is built of a config, or used."""


def check_run_json(path: Path, content: dict[str, Any]) -> None:
    """Raise DamagedFile for the first key of run.json that holds something else than a run writes.

    Keys may be missing, as older runs wrote fewer, and null where they are; others are nobody's concern.
    """
    _check(path, _run_json(), content)


def check_groups(path: Path, config: dict[str, Any], groups: Iterable[str]) -> None:
    """Raise DamagedFile where one of these groups in config.yaml is no mapping with texts as its keys."""
    for name in groups:
        group = config.get(name)
        if group is not None and not (isinstance(group, dict) and all(isinstance(key, str) for key in group)):
            raise DamagedFile(f"{path} cannot be read: {name} is {_shown(group)} instead of a group of settings")


def check_checkpoint(path: Path, content: Any, resumed: bool = False) -> None:
    """Raise DamagedFile where a checkpoint, read, lacks what a reader needs or says it in other kinds.

    Args:
        resumed: with what a run goes on from, too: it may name no files but those beside it, as some will be deleted.
    """
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} is no checkpoint of AnchorLab: it holds a {type(content).__name__}")
    _check(path, _checkpoint(resumed), content)
    check_groups(path, content["config"], groups())
    for name in NEEDED:
        if not content["config"].get(name):
            raise DamagedFile(f"{path} cannot be read: its config has no {name}")
    if resumed:
        for counter in _counters(content["loops"]):
            if counter < 0:
                raise DamagedFile(f"{path} cannot be read: a loop has counted {counter}, which no run writes")
        for name, state in content["callbacks"].items():
            _check_paths(path, name, state)


def _counters(node: Any) -> Iterable[int]:
    if isinstance(node, dict):
        for child in node.values():
            yield from _counters(child)
    elif isinstance(node, int):
        yield node


def _check_paths(path: Path, name: str, state: Any) -> None:
    """Files that a callback keeps account of lie in the folder that it names: a run deletes some of them."""
    if not isinstance(state, dict) or "dirpath" not in state:
        return
    for key, value in state.items():
        files = list(value) if isinstance(value, dict) else [value] if key.endswith("_path") else []
        if any(not isinstance(file, str) or (file and Path(file).parent != Path(state["dirpath"])) for file in files):
            raise DamagedFile(f"{path} cannot be read: {name.partition('{')[0]} names a file outside of its folder")


def check_model_json(path: Path, content: Any) -> None:
    """Raise DamagedFile where the .json of an exported model holds something else than an export writes."""
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} cannot be read: it holds a {type(content).__name__} instead of named values")
    _check(path, _model_json(), content)
    check_groups(path, content["config"], groups())


def _check(path: Path, schema: "TypeAdapter[Any]", content: Any) -> None:
    from pydantic import ValidationError

    try:
        schema.validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        # Of a union pydantic names the members too, in brackets or as a kind's name, behind the place.
        place = [str(part) for part in first["loc"]]
        key = ".".join(place[: _known_depth(content, first["loc"])])
        missing = first["type"] == "missing"
        what = f"{key or place[-1]} is missing" if missing else f"{key}={_shown(first['input'])}"
        raise DamagedFile(f"{path} cannot be read: {printable(what)}, which no run writes") from error


def _known_depth(content: Any, place: tuple[Any, ...]) -> int:
    """How many parts of a place lead into the content."""
    for depth, part in enumerate(place):
        inside = (
            part in content if isinstance(content, dict) else isinstance(content, list) and part in range(len(content))
        )
        if not inside:
            return depth
        content = content[part]
    return len(place)


def _shown(value: Any) -> str:
    text = f"'{value}'" if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _named(total: bool = True, **kinds: Any) -> Any:
    """A mapping with these keys, and others that nobody looks at; not total: each may be missing."""
    from typing_extensions import TypedDict

    made: Any = TypedDict
    return made("named", kinds, total=total)


@cache
def _run_json() -> "TypeAdapter[Any]":
    from pydantic import FiniteFloat, NonNegativeInt, TypeAdapter

    number: Any = int | FiniteFloat
    value: Any = str | bool | number | None
    metrics: Any = dict[str, number | None]
    kinds: dict[str, Any] = {
        "id": str,
        "reason": str,
        "warnings": dict[str, str],
        "created": str,
        "updated": str,
        "resumed": NonNegativeInt,
        "overrides": list[str],
        "choices": dict[str, Any],
        "config_hash": str,
        "command_hash": str,
        "anchor_hash": str,
        "seed": int,
        "commit": str,
        "dirty": bool,
        "versions": dict[str, str | None],
        "machine": dict[str, value | list[str]],
        "axes": dict[str, value],
        "timings": metrics,
        "figures": dict[str, metrics],
    }
    kinds = {name: Optional[kind] for name, kind in kinds.items()}  # noqa: UP045 - some are no types, but forms
    return TypeAdapter(_named(total=False, schema_version=NonNegativeInt, status=Status, **kinds))


@cache
def _checkpoint(resumed: bool) -> "TypeAdapter[Any]":
    import torch
    from pydantic import FiniteFloat, InstanceOf, NonNegativeInt, TypeAdapter

    tensor: Any = InstanceOf[torch.Tensor]
    kinds: dict[str, Any] = {
        "config": dict[str, Any],
        "state_dict": dict[str, tensor],
        "global_step": NonNegativeInt,
        "loops": _named(fit_loop=_named(epoch_progress=_named(current=_named(processed=NonNegativeInt)))),
    }
    if resumed:
        kinds |= {
            "scored_step": Optional[NonNegativeInt],  # noqa: UP045
            "callbacks": _named(Recorder=_named(fit_s=FiniteFloat, train_s=FiniteFloat, images=NonNegativeInt)),
            "optimizer_states": list[dict[str, Any]],
            "lr_schedulers": list[dict[str, Any]],
        }
    return TypeAdapter(_named(**kinds))


@cache
def _model_json() -> "TypeAdapter[Any]":
    from pydantic import FiniteFloat, NonNegativeInt, TypeAdapter

    number: Any = int | FiniteFloat
    level = _named(stride=number, shapes=list[list[number]])
    about = _named(
        total=False,
        **dict.fromkeys(("name", "checkpoint", "run", "commit", "licence"), str | None),
        **dict.fromkeys(("epoch", "step"), Optional[NonNegativeInt]),  # noqa: UP045
        data=dict[str, str | None],
        anchors=list[level],
        coverage=dict[str, number],
        figures=dict[str, number],
        versions=dict[str, str | None],
    )
    return TypeAdapter(_named(config=dict[str, Any], about=about))
