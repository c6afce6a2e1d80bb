"""The settings of a run: which keys exist, what they may hold, and one sentence for each that is wrong.

The composed YAML is the list of keys and their defaults; what a group's settings may hold is said by the signature of
its class. This module checks a config against both, and declares the commands' own settings. It imports no torch by
itself, so that a wrong key is answered at once.
"""

import difflib
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args

from annotated_types import Ge, Le, MinLen, doc
from hydra._internal.utils import _locate

from anchorlab.config.elsewhere import here
from anchorlab.config.moved import with_current_names
from anchorlab.errors import SettingError
from anchorlab.signatures import (
    ArgumentError,
    Count,
    CountOrZero,
    Counts,
    Levels,
    Numbers,
    Positive,
    Seed,
    Share,
    Side,
    Sides,
    Text,
    Texts,
    argument,
    check_arguments,
    checks_itself,
    is_text,
    shown,
)


def words_of(choices: Any, example: str) -> Any:
    """One of a few words (a Literal), or a list of them."""
    known = ", ".join(get_args(choices))
    several = Annotated[Sequence[choices], MinLen(1)]
    return Annotated[choices | several, doc(f"one of {known}, or a list such as {example}")]


def or_null(*annotations: Any) -> Any:
    """Any of these annotations, or None."""
    return Union[(*annotations, None)]


COMMAND_SETTINGS: dict[str, Any] = {
    # train.py
    "seed": Seed,
    "start": or_null(Text),
    "resume": or_null(Text),
    "overwrite": bool,
    "preflight": Literal["warn", "refuse", "none"],
    "preflight_least": Share,
    "probes": or_null(Text),
    "debug.look": CountOrZero,
    # study.py
    "split": Literal["train", "val", "test"],
    "ks": or_null(Counts),
    "probe": bool,
    "worst": CountOrZero,
    # compare.py
    "runs": Texts,
    "baseline": or_null(Text),
    "images": Literal["same", "common"],
    "rows": Count,
    "gallery": CountOrZero,
    "output": or_null(Text),
    "bootstrap.resamples": Annotated[int, Ge(100), Le(1_000_000)],
    "bootstrap.confidence": Annotated[float, Ge(0.5), Le(0.9999)],
    "bootstrap.seed": CountOrZero,
    "wandb.entity": or_null(Text),
    "wandb.project": Text,
    "wandb.name": Text,
    "wandb.url": or_null(Text),
    # evaluate.py
    "run": Texts,
    "checkpoint": Literal["last", "best"],
    "root": or_null(Text),
    "eval.split": Literal["train", "val", "test"] | None,
    "eval.size": or_null(Side, Sides),
    "eval.limit": or_null(Count),
    "eval.batch_size": or_null(Count),
    "eval.workers": or_null(CountOrZero),
    "pictures": CountOrZero,
    "top": Count,
    "outcome": CountOrZero,
    "device": Literal["cpu", "gpu"] | None,
    "precision": Literal[32, "bf16", 16] | None,
    # propose.py
    "source": Texts,
    "folder": or_null(Text),
    "format": words_of(Literal["coco", "npz", "detectron2"], "[coco,npz]"),
    "limit": or_null(Count),
    "size": or_null(Side),
    "batch_size": Count,
    "workers": CountOrZero,
    "chunk": Count,
    "shard": or_null(Text),
    "megapixels": or_null(Positive),
    # export.py
    "formats": words_of(Literal["safetensors", "torch", "onnx"], "[safetensors,torch]"),
    "batch": Count,
    "photos": or_null(Texts),
    "sizes": or_null(Sides),
    "repeats": Count,
    "scored": CountOrZero,
    "threads": or_null(Count),
    # explain.py
    "image": Text,
    "at": or_null(Numbers),
    "level": or_null(CountOrZero),
}
"""What the commands' own settings may hold; those of a group are said by the signature of the group's class."""

EXPLAIN_SETTINGS: dict[str, Any] = {"format": Literal["pictures", "html"]}
"""What means something else in explain.py than in propose.py."""


def with_texts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with every number that YAML read in a command's own setting of texts as that text: resume: 5."""
    changed = dict(config)
    for key, annotation in COMMAND_SETTINGS.items():
        value, present = _look_up(config, key)
        if present and "." not in key and is_text(annotation):
            changed[key] = _as_text(value)
    return changed


def _as_text(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return value if value is None or isinstance(value, str) else str(value)


def check(config: Mapping[str, Any]) -> None:
    """Raise SettingError for the first of a command's own settings out of its range, or for groups at odds.

    Imports no torch; what a group's class takes is `check_signatures`' to say.
    """
    explains = EXPLAIN_SETTINGS if "image" in config else {}
    for key, annotation in (COMMAND_SETTINGS | explains).items():
        value, present = _look_up(config, key)
        if present and not argument(annotation).accepts(value):
            raise SettingError(str(ArgumentError(key, value, argument(annotation).wanted)))
    data = config.get("data") or {}
    if "short" in data and data["short"] is None and data.get("long") is None:
        raise SettingError(
            "data.short and data.long are both null: give the size images are resized to, e.g. data.long=416"
        )
    trainer = config.get("trainer") or {}
    if data.get("limit_val") is not None and trainer.get("limit_val_batches") is not None:
        raise SettingError(
            f"data.limit_val={data['limit_val']} and trainer.limit_val_batches={trainer['limit_val_batches']} both say "
            "how much is validated: set one of them to null"
        )
    _check_anchor_sizes(config.get("anchor") or {}, data.get("long"))


def check_signatures(config: Mapping[str, Any], key: str = "", before_building: bool = False) -> None:
    """Raise SettingError for the first value that the signature of its class refuses, in the whole of a config.

    Imports the classes that the config names, and with most of them torch; builds none.

    Args:
        before_building: leave out what the classes themselves look at as they are built (those of `_partial_` later).
    """
    target = config.get("_target_")
    if isinstance(target, str):
        given = {name: value for name, value in config.items() if not name.startswith("_")}
        cls = _located(target, key)
        _check_names(cls, given, key)
        try:
            if not (before_building and checks_itself(cls) and not config.get("_partial_")):
                check_arguments(cls, given)
        except ArgumentError as error:
            raise SettingError(f"{key}.{error}" if key else str(error)) from error
    for name, child in config.items():
        if isinstance(child, Mapping):
            check_signatures(child, f"{key}.{name}" if key else name, before_building)


def _check_names(cls: Any, given: Iterable[str], key: str) -> None:
    """Refuse an argument that a class does not take: those of a class from outside stand in no config of ours."""
    parameters = inspect.signature(cls).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in given:
        if name not in parameters:
            place = f"{key}.{name}" if key else name
            raise SettingError(f"{place} is not possible: {cls.__name__} takes {', '.join(parameters) or 'no setting'}")


def _located(target: str, key: str) -> Any:
    """The class or function that `_target_` names, under the name that it has today."""
    current = with_current_names({"_target_": target})["_target_"]
    place = f"{key}._target_" if key else "_target_"
    try:
        found = _locate(current)  # Hydra's public get_object logs an error besides raising it
    except Exception as error:  # whatever the import of a module from outside raises
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__
        raise SettingError(
            f"{place}={target} cannot be imported ({reason}): give the dotted name of a class"
        ) from error
    if not callable(found):
        raise SettingError(f"{place}={target} is a {type(found).__name__}: give the dotted name of a class")
    return found


def _check_anchor_sizes(anchor: Mapping[str, Any], long: Any) -> None:
    """The smallest have at most twice the longest image side: a box inside it covers at most a quarter of larger ones.

    The largest of a pyramid may exceed it: presets have sizes for large images, and small ones do without.
    """
    sizes = anchor.get("sizes")
    if sizes is None or not argument(Levels).accepts(sizes) or not argument(Count).accepts(long):
        return
    smallest = min(size for level in sizes for size in (level if isinstance(level, Sequence) else [level]))
    if smallest > 2 * long:
        raise SettingError(
            f"anchor.sizes begins at {smallest:g}, more than twice the longest image side (data.long={long}): no box "
            f"inside an image could overlap such an anchor by IoU 0.3; use smaller sizes or larger images"
        )


def check_keys(config: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
    """Refuse every key of `config` that `reference` (the same groups, nothing overridden) does not have.

    Keys of a class that `config` alone names, in place of another (`loss._target_=...`) or beside others
    (`+callbacks.mine._target_=...`), are left to its signature.
    """
    known = dict(_leaves(reference))
    free = [*_free_nodes(known), *(node for node in _built_nodes(config) if _is_new_part(node, config, reference))]
    for key, value in _leaves(config):
        if any(other.startswith(f"{key}.") for other in known):
            raise SettingError(f"{key}={shown(value)} is not possible: it is a group of settings, {key}.<name>=...")
        if key not in known and not any(key.startswith(parent + ".") for parent in free):
            raise SettingError(unknown_key(key, known))


def _is_new_part(node: str, config: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    """Whether `config` alone names the class of a node, and the node stands where a class may stand."""
    before, known = _look_up(reference, node)
    if known:
        return isinstance(before, Mapping) and before.get("_target_") != _look_up(config, node)[0]["_target_"]
    return takes_more(reference, node.rpartition(".")[0])


def takes_more(reference: Mapping[str, Any], node: str) -> bool:
    """Whether a node holds nothing but classes under names of their own, as `callbacks` does: more may be added."""
    parts, _ = _look_up(reference, node)
    return (
        isinstance(parts, Mapping)
        and "_target_" not in parts
        and all(isinstance(part, Mapping) and "_target_" in part for part in parts.values())
    )


def check_kinds(config: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
    """Refuse a value of another kind than its default, where nothing else says what the key may hold."""
    known = dict(_leaves(reference))
    built = _built_nodes(reference)
    for key, value in _leaves(config):
        default = known.get(key)
        inside = any(key.startswith(node + ".") for node in built)
        if key in COMMAND_SETTINGS or inside or default is None or _same_kind(value, default):
            continue
        raise SettingError(
            f"{key}={shown(value)} is not possible: it must be {_kind(default)} such as {shown(default)}"
        )


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence for a key that does not exist: what it is here if another project has it, else the nearest one."""
    if (elsewhere := here(key)) is not None:
        return f"{key} is not a setting: here it is {elsewhere}"
    nearest = nearest_word(key, known)
    hint = f"did you mean {nearest}?" if nearest else "--cfg job shows all keys"
    return f"{key} is not a setting: {hint}"


def unknown_choice(group: str, choice: str, known: Sequence[str]) -> str:
    """The sentence for a choice that a group does not have, with the nearest one that it has."""
    if group == "data" and ("/" in choice or Path(choice).suffix or os.path.exists(choice)):
        return f"data={choice} does not exist: data= is the format ({', '.join(known)}), write data.root={choice}"
    nearest = nearest_word(choice, known)
    hint = f"did you mean {group}={nearest}?" if nearest else f"there are {', '.join(known)}"
    return f"{group}={choice} does not exist: {hint}"


def nearest_word(word: str, known: Iterable[str]) -> str | None:
    """The most alike of `known`; a key whose last part matches counts as near, whatever its group."""
    known = list(known)
    tail = word.rsplit(".", 1)[-1]
    same_tail = [key for key in known if key.rsplit(".", 1)[-1] == tail]
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6) or same_tail[:1]
    return found[0] if found else None


def leaf_keys(config: Mapping[str, Any]) -> list[str]:
    """The dotted keys of all leaves; lists are leaves."""
    return [key for key, _ in _leaves(config)]


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _free_nodes(known: Mapping[str, Any]) -> list[str]:
    """Keys whose default is an empty mapping: people fill them with names of their own."""
    return [key for key, value in known.items() if isinstance(value, Mapping)]


def _built_nodes(config: Mapping[str, Any], key: str = "") -> list[str]:
    """Keys of the nodes that name a class, whose signature says what their settings may hold."""
    own = [key] if isinstance(config.get("_target_"), str) else []
    children = [(f"{key}.{name}" if key else name, child) for name, child in config.items()]
    return own + [node for name, child in children if isinstance(child, Mapping) for node in _built_nodes(child, name)]


def _look_up(config: Mapping[str, Any], key: str) -> tuple[Any, bool]:
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None, False
        node = node[part]
    return node, True


def _same_kind(value: Any, default: Any) -> bool:
    if value is None:
        return False
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, str):
        return isinstance(value, (str, int, float))
    return isinstance(value, type(default))


def _kind(default: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
    return kinds.get(type(default), "a group of keys")
