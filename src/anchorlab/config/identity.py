"""Identity of an experiment and of its anchors: hashes of every setting that changes the result.

Not a fingerprint of the code: the commit is recorded beside them.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from anchorlab.config import declared
from anchorlab.config.moved import with_current_names, with_old_names

# Settings that change no metric, or only by chance (the seed), or how far a sweep lets a run go (its rungs).
# Each covers everything below it. This is their one home.
IGNORED_KEYS = (
    "seed",
    "data.workers",
    "data.val_batch_size",
    "data.timeout",
    "data.megapixels",
    "data.cache",
    "data.cache_limit",
    "data.cache_folder",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.timeout",
    "trainer.threads",
    "trainer.channels_last",
    "trainer.sampled_only",
    "trainer.keep_memory",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "debug",
    "hydra",
    "logger",
    "overwrite",
    "preflight",
    "preflight_least",
    "probes",
    "resume",
    "sweep",
)

# Folders: the same data set lies elsewhere on another machine, so only the folder's own name counts.
FOLDER_KEYS = ("data.root",)


def config_hash(config: dict[str, Any]) -> str:
    """Identity of an experiment: 12 hex digits of all in its resolved config that changes the result.

    `IGNORED_KEYS` are left out, `FOLDER_KEYS` count by their last component, 1 equals 1.0, and the order of
    keys does not matter. Classes (`_target_`) count, and so does the number of epochs. Callbacks count unless their
    class says `only_watches = True`.
    """
    return _digest(settings_that_count(config))


def settings_that_count(config: dict[str, Any]) -> dict[str, Any]:
    """The leaves of a resolved config that change the result, by dotted key, as `config_hash` compares them."""
    left_out = _new_defaults(config) | _derived(config)
    watching = _watching(config)
    return {
        key: _folder_name(value) if _within(key, FOLDER_KEYS) else _plain_number(value)
        for key, value in _leaves(with_old_names(config))
        if changes_result(key) and not _within(key, watching) and key not in left_out
    }


def all_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Every leaf of a config by its dotted key; a list is a leaf."""
    return dict(_leaves(config)) if config else {}


def changes_result(key: str) -> bool:
    """Whether a setting (its dotted key) belongs to the experiment's identity, unless it is of a watching callback."""
    return not _within(key, IGNORED_KEYS)


def _watching(config: dict[str, Any]) -> list[str]:
    """Keys of the callbacks whose classes declare that they only watch; and the empty group, where there is none."""
    callbacks = with_current_names(config.get("callbacks") or {})
    if not callbacks:
        return ["callbacks"]
    return [
        f"callbacks.{name}"
        for name, node in callbacks.items()
        if isinstance(node, dict) and declared.attribute(str(node.get("_target_")), "only_watches") is True
    ]


def _new_defaults(config: dict[str, Any]) -> set[str]:
    """Settings that came after the first hashes and do what was done before: of our own classes null or default, of a
    group that chooses no class all."""
    first_groups = {key.partition(".")[0] for key in _first_keys()}
    return {
        f"{name}._target_"
        for name, node in config.items()
        if name not in first_groups and isinstance(node, dict) and node.get("_target_", "") is None
    } | {
        f"{place}.{name}"
        for place, node in _built(with_current_names(config))
        for name, value in node.items()
        if f"{place}.{name}" not in _first_keys() and _says_nothing(node["_target_"], name, value)
    }


def _derived(config: dict[str, Any]) -> set[str]:
    """Settings that a class says it finds from others (`derived`): those count already."""
    return {
        f"{place}.{name}"
        for place, node in _built(with_current_names(config))
        for name in declared.attribute(node["_target_"], "derived") or ()
    }


def _built(node: dict[str, Any], place: str = "") -> list[tuple[str, dict[str, Any]]]:
    """The groups, and parts of groups, that name a class of ours."""
    own = [(place, node)] if str(node.get("_target_")).startswith("anchorlab.") else []
    children = [(f"{place}.{name}" if place else name, child) for name, child in node.items()]
    return own + [found for name, child in children if isinstance(child, dict) for found in _built(child, name)]


def _says_nothing(target: str, name: str, value: Any) -> bool:
    known = declared.defaults(target)
    default = _plain_number(known[name]) if name in known else None
    return not name.startswith("_") and (value is None or (name in known and _plain_number(value) == default))


@cache
def _first_keys() -> frozenset[str]:
    """The keys that all hashes count, whatever their values. The file is never added to: new keys are not in it."""
    return frozenset(Path(__file__).with_name("first_keys.txt").read_text(encoding="utf-8").split())


def anchor_hash(shapes: Sequence[Any]) -> str:
    """Identity of a set of anchors: 12 hex digits of the width x height of each, level by level.

    Args:
        shapes: per level (k, 2) width and height in input pixels, as arrays, tensors on the CPU or lists.

    Their order within a location changes no match and does not count; neither do differences below 0.001 px.
    """
    levels = [np.round(np.asarray(level, dtype=np.float64).reshape(-1, 2), 3) for level in shapes]
    return _digest([sorted(map(tuple, level.tolist())) for level in levels])


def _leaves(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """Dotted key and value of every leaf; a list is a leaf, and so is an empty dict."""
    if not isinstance(value, dict) or not value:
        return [(key, value)]
    prefix = f"{key}." if key else ""
    return [leaf for name, child in value.items() for leaf in _leaves(child, f"{prefix}{name}")]


def _within(key: str, places: Sequence[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _folder_name(value: Any) -> Any:
    return value.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if isinstance(value, str) else value


def _plain_number(value: Any) -> Any:
    """`lr=1` and `lr=1.0` train the same; True and 1 are different settings."""
    if isinstance(value, dict):
        return {name: _plain_number(child) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_number(child) for child in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
