"""The settings of a run: which keys exist, what they may hold, and one sentence for each that is wrong.

The composed YAML is the list of keys and their defaults. This module adds what YAML cannot say: kinds, ranges
and relations between keys. It imports no torch, so that a wrong key is answered at once.
"""

import difflib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anchorlab.errors import SettingError


@dataclass(frozen=True)
class Number:
    """A finite number in [low, high]; `whole`: an integer, `above`: not low itself, `null`, `auto`: also these."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    null: bool = False
    above: bool = False
    auto: bool = False

    def accepts(self, value: Any) -> bool:
        if value is None:
            return self.null
        if value == "auto":
            return self.auto
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return self.low <= value <= self.high and math.isfinite(value) and not (self.above and value == self.low)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.high < math.inf:
            span = f" {'above' if self.above else 'from'} {self.low:g} {'up ' if self.above else ''}to {self.high:g}"
        elif self.low > -math.inf:
            span = f" above {self.low:g}" if self.above else f" of at least {self.low:g}"
        else:
            span = ""
        return kind + span + (" or null" if self.null else "") + (" or auto" if self.auto else "")


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[Any, ...]

    def accepts(self, value: Any) -> bool:
        return any(value is word or (type(value) is type(word) and value == word) for word in self.words)

    def __str__(self) -> str:
        return "one of " + ", ".join(_shown(word) for word in self.words)


@dataclass(frozen=True)
class Numbers:
    """A list of positive numbers, or one such list per level (`depth` 1 and 2; shapes go one deeper; 0: a number)."""

    depth: tuple[int, ...] = (1, 2)
    null: bool = True
    whole: bool = False

    def accepts(self, value: Any) -> bool:
        if value is None:
            return self.null
        return any(self._is_list(value, depth) for depth in self.depth)

    def _is_list(self, value: Any, depth: int) -> bool:
        if depth == 0:
            return Number(0, above=True, whole=self.whole).accepts(value)
        return isinstance(value, list) and bool(value) and all(self._is_list(item, depth - 1) for item in value)

    def __str__(self) -> str:
        lists = "[[[16, 32], [24, 24]]] (width, height; a list per level)" if 3 in self.depth else "[0.5,1,2]"
        lists = "[3,6,9]" if self.whole else lists
        kind = "whole" if self.whole else "positive"
        one = f"a {kind} number or " if 0 in self.depth else ""
        return f"{one}a list of {kind} numbers such as {lists}" + (" or null" if self.null else "")


@dataclass(frozen=True)
class Texts:
    """One text or, where `several`, a list of texts."""

    several: bool = False
    null: bool = False

    def accepts(self, value: Any) -> bool:
        if value is None:
            return self.null
        if self.several and isinstance(value, list):
            return bool(value) and all(isinstance(item, str) and item for item in value)
        return isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""

    def __str__(self) -> str:
        return "text" + (" or a list such as [a,b]" if self.several else "") + (" or null" if self.null else "")


@dataclass(frozen=True)
class Words:
    """One of a few words, or a list of them."""

    words: tuple[str, ...]

    def accepts(self, value: Any) -> bool:
        given = value if isinstance(value, list) else [value]
        return bool(given) and all(isinstance(word, str) and word in self.words for word in given)

    def __str__(self) -> str:
        return "one of " + ", ".join(self.words) + f", or a list such as [{','.join(self.words[:2])}]"


@dataclass(frozen=True)
class PerLevel:
    """One number, or a list with one for each level."""

    each: Number

    def accepts(self, value: Any) -> bool:
        return (
            all(map(self.each.accepts, value)) and len(value) > 0
            if isinstance(value, list)
            else self.each.accepts(value)
        )

    def __str__(self) -> str:
        return f"{self.each}, or a list with one for each level"


@dataclass(frozen=True)
class Tiers:
    """Pairs of a number of proposals, ascending, and an IoU."""

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, list) or not value:
            return False
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
            return False
        counts = [count for count, _ in value]
        ascending = all(map(COUNT.accepts, counts)) and all(a < b for a, b in itertools.pairwise(counts))
        return ascending and all(SHARE.accepts(iou) for _, iou in value)

    def __str__(self) -> str:
        return "a list of pairs, a number of proposals (ascending) and an IoU, such as [[100,0.7],[1000,0.85]]"


Rule = Number | Choice | Numbers | Texts | Words | PerLevel | Tiers

SHARE = Number(0, 1)
COUNT = Number(1, whole=True)
COUNT_OR_NULL = Number(1, whole=True, null=True)
POSITIVE = Number(0, above=True)
POSITIVE_OR_NULL = Number(0, above=True, null=True)
PIXELS_OR_NULL = Number(1, whole=True, null=True)

RULES: dict[str, Rule] = {
    "seed": Number(0, 2**31 - 1, whole=True),
    "start": Texts(null=True),
    "preflight": Choice(("warn", "refuse", "none")),
    "preflight_least": SHARE,
    "split": Choice(("train", "val", "test")),
    "ks": Numbers(depth=(1,), whole=True),
    "worst": Number(0, whole=True),
    "debug.look": Number(0, whole=True),
    "anchor.sizes": Numbers(),
    "anchor.ratios": Numbers(),
    "anchor.scale": Number(0, above=True, null=True),
    "anchor.scales_per_octave": COUNT_OR_NULL,
    "anchor.shapes": Numbers(depth=(3,)),
    "anchor.k": COUNT_OR_NULL,
    "anchor.form": Choice(("free", "grid")),
    "anchor.size_range": Numbers(depth=(1,), null=False),
    "anchor.boxes": COUNT,
    "anchor.seed": Number(0, 2**31 - 1, whole=True),
    "anchor.offset": SHARE,
    "anchor.order": Choice(("size", "ratio")),
    "anchor.stride": Choice(("declared", "inferred")),
    "assigner.foreground_iou": Number(0, 1, above=True),
    "assigner.background_iou": SHARE,
    "assigner.low_quality_floor": Number(0, 1, null=True),
    "assigner.ignore_iof": Number(0, 1, above=True, null=True),
    "assigner.border": Number(0, null=True),
    "assigner.candidates": COUNT,
    "assigner.centre": Number(0, 1, above=True),
    "assigner.ignored": Number(0, 1, above=True),
    "sampler.num": COUNT,
    "sampler.positive_fraction": SHARE,
    "sampler.edges": Numbers(depth=(1,), null=False),
    "head.objectness": Choice(("softmax", "sigmoid")),
    "head.channels": COUNT_OR_NULL,
    "head.convs": Number(0, whole=True),
    "cascade.weight": Number(0),
    "cascade.dilation": COUNT,
    "coder.clip": Number(0, above=True, null=True),
    "loss.beta": POSITIVE,
    "head.prior": Number(0, 1, above=True),
    "head.delta_std": Number(0),
    "loss.divisor": Choice(("sampled", "budget", "locations", "positives")),
    "loss.box_weight": Number(0),
    "loss.objectness_weight": Number(0),
    "loss.delta_weight": Number(0),
    "objectness.alpha": SHARE,
    "objectness.gamma": Number(0),
    "objectness.beta": Number(0),
    "quality.num": COUNT,
    "quality.least_iou": Number(0, 1, above=True),
    "quality.background": Number(0, whole=True),
    "quality.weight": Number(0),
    "quality.score": Choice(("both", "quality", "objectness")),
    "proposals.pre_nms_top_n": PerLevel(COUNT),
    "proposals.post_nms_top_n": COUNT,
    "proposals.nms_iou": PerLevel(SHARE),
    "proposals.tiers": Tiers(),
    "proposals.sigma": PerLevel(POSITIVE),
    "proposals.min_size": Number(0),
    "proposals.score_threshold": SHARE,
    "proposals.vote_sigma": POSITIVE_OR_NULL,
    "backbone.frozen_stages": Number(0, 5, whole=True),
    "backbone.batch_norm": Choice(("frozen", "affine", "trainable")),
    "backbone.fpn_channels": COUNT,
    "backbone.channels": COUNT,
    "data.batch_size": COUNT,
    "data.val_batch_size": COUNT_OR_NULL,
    "data.workers": Number(0, whole=True),
    "data.short": PIXELS_OR_NULL,
    "data.long": PIXELS_OR_NULL,
    "data.pad_to": COUNT,
    "data.val_fraction": Number(0, 1, above=True),
    "data.split_seed": Number(0, whole=True),
    "data.score": Choice(("kept", "unseen")),
    "data.holdout": Number(0, 1, above=True, null=True),
    "data.validate_on": Choice(("train", "val", "test")),
    "data.on_error": Choice(("raise", "skip")),
    "data.timeout": Number(0, above=True, null=True),
    "data.cache": Choice((None, "disk")),
    "data.cache_limit": POSITIVE,
    "data.limit_train": COUNT_OR_NULL,
    "data.limit_val": COUNT_OR_NULL,
    "data.reader.difficult": Choice(("ignore", "keep", "drop")),
    "optimizer.lr": POSITIVE,
    "optimizer.weight_decay": Number(0),
    "optimizer.momentum": SHARE,
    "scheduler.warmup": SHARE,
    "scheduler.gamma": POSITIVE,
    "trainer.epochs": COUNT,
    "trainer.max_steps": COUNT_OR_NULL,
    "trainer.num_nodes": COUNT,
    "trainer.accumulate": COUNT,
    "trainer.gradient_clip": Number(0, above=True, null=True),
    "trainer.val_every": COUNT,
    "trainer.limit_val_batches": COUNT_OR_NULL,
    "trainer.accelerator": Choice(("auto", "cpu", "gpu")),
    "trainer.precision": Choice(("auto", 32, "bf16", 16)),
    "trainer.channels_last": Choice(("auto", True, False)),
    "trainer.sampled_only": Choice(("auto", True, False)),
    "trainer.keep_memory": Choice(("auto", True, False)),
    "trainer.threads": Number(1, whole=True, auto=True),
    "trainer.log_every": COUNT,
    "callbacks.outcome.images": Number(0, whole=True),
    "callbacks.outcome.budget": COUNT,
    "trainer.checkpoint_every": Number(0, null=True),
    "callbacks.stop_after.epochs": COUNT_OR_NULL,
    "sweep.min_coverage": Number(0, 1, null=True),
    "sweep.at_once": COUNT_OR_NULL,
    "sweep.factor": Number(2, whole=True),
    "sweep.trials": COUNT,
    "sweep.startup": COUNT,
    "sweep.seed": Number(0, whole=True),
    "sweep.sampler": Choice(("tpe", "random")),
    # compare.py
    "runs": Texts(several=True),
    "baseline": Texts(null=True),
    "images": Choice(("same", "common")),
    "rows": COUNT,
    "gallery": Number(0, whole=True),
    "output": Texts(null=True),
    "bootstrap.resamples": Number(100, 1_000_000, whole=True),
    "bootstrap.confidence": Number(0.5, 0.9999),
    "bootstrap.seed": Number(0, whole=True),
    "wandb.entity": Texts(null=True),
    "wandb.url": Texts(null=True),
    # evaluate.py
    "run": Texts(several=True),
    "checkpoint": Choice(("last", "best")),
    "root": Texts(null=True),
    "eval.split": Choice((None, "train", "val", "test")),
    "eval.size": Numbers(depth=(0, 1), whole=True),
    "eval.limit": COUNT_OR_NULL,
    "eval.batch_size": COUNT_OR_NULL,
    "eval.workers": Number(0, whole=True, null=True),
    "pictures": Number(0, whole=True),
    "top": COUNT,
    "outcome": Number(0, whole=True),
    "device": Choice((None, "cpu", "gpu")),
    "precision": Choice((None, 32, "bf16", 16)),
    # propose.py
    "source": Texts(several=True),
    "folder": Texts(null=True),
    "format": Words(("coco", "npz", "detectron2")),
    "limit": COUNT_OR_NULL,
    "size": COUNT_OR_NULL,
    "batch_size": COUNT,
    "workers": Number(0, whole=True),
    "chunk": COUNT,
    # export.py
    "formats": Words(("safetensors", "torch", "onnx")),
    "photos": Texts(several=True, null=True),
    "sizes": Numbers(depth=(1,), whole=True),
    "repeats": COUNT,
    "scored": Number(0, whole=True),
    "threads": COUNT_OR_NULL,
    # explain.py
    "image": Texts(),
    "at": Numbers(depth=(1,)),
    "level": Number(0, whole=True, null=True),
}


def check(config: Mapping[str, Any]) -> None:
    """Raise SettingError for the first setting out of its range or at odds with another one."""
    for key, rule in RULES.items():
        value, present = _look_up(config, key)
        if present and not rule.accepts(value):
            raise SettingError(f"{key}={_shown(value)} is not possible: it must be {rule}")
    _check_relations(config)


def _check_relations(config: Mapping[str, Any]) -> None:
    assigner, data = config.get("assigner") or {}, config.get("data") or {}
    low, high = assigner.get("background_iou", 0), assigner.get("foreground_iou", 1)
    if low > high:
        raise SettingError(
            f"assigner.background_iou={low:g} is above assigner.foreground_iou={high:g}: an anchor would be both; "
            f"lower the first or raise the second"
        )
    short, long = data.get("short"), data.get("long")
    if short is None and long is None and "short" in data:
        raise SettingError(
            "data.short and data.long are both null: give the size images are resized to, e.g. data.long=416"
        )
    if short is not None and long is not None and short > long:
        raise SettingError(
            f"data.short={short} is above data.long={long}: the short side cannot be the longer one; swap them"
        )
    _check_anchor_sizes(config.get("anchor") or {}, long)


def _check_anchor_sizes(anchor: Mapping[str, Any], long: int | None) -> None:
    """Twice the longest image side: a box inside the image then covers at most a quarter of such an anchor."""
    sizes = anchor.get("sizes")
    if sizes is None or long is None:
        return
    largest = max(size for level in sizes for size in (level if isinstance(level, list) else [level]))
    if largest > 2 * long:
        raise SettingError(
            f"anchor.sizes holds {largest:g}, more than twice the longest image side (data.long={long}): no box inside "
            f"an image could overlap such an anchor by IoU 0.3; use smaller sizes or larger images"
        )


def check_keys(config: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
    """Refuse every key of `config` that `reference` (the same groups, nothing overridden) does not have."""
    known = dict(_leaves(reference))
    for key, _ in _leaves(config):
        if key not in known and not any(key.startswith(parent + ".") for parent in _free_nodes(known)):
            raise SettingError(unknown_key(key, known))


def check_kinds(config: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
    """Refuse a value of another kind than its default, where no rule says what the key may hold."""
    known = dict(_leaves(reference))
    for key, value in _leaves(config):
        default = known.get(key)
        if key in RULES or default is None or _same_kind(value, default):
            continue
        raise SettingError(
            f"{key}={_shown(value)} is not possible: it must be {_kind(default)} such as {_shown(default)}"
        )


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence for a key that does not exist, with the nearest one that does."""
    nearest = nearest_word(key, known)
    hint = f"did you mean {nearest}?" if nearest else "--cfg job shows all keys"
    return f"{key} is not a setting: {hint}"


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


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(_shown(item) for item in value) + "]"
    return str(value)
