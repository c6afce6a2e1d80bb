"""Every leaf of conf/ reaches its constructor's signature, and changing it changes what is built or what it gives."""

import inspect
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from torch import nn

from anchorlab.build import NETWORK_GROUPS, build, build_network
from anchorlab.cli.overrides import check_overrides
from anchorlab.config.settings import COMMAND_SETTINGS, leaf_keys
from anchorlab.signatures import arguments_of

CONFIGS = Path(__file__).parents[2] / "conf"
GROUPS = sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir())
NOT_BUILT = ("experiment", "debug")
NEEDED = {"data": ["data.root=/nowhere"], "timm_fpn": ["backbone.name=resnet18"]}
DERIVED = {
    "anchor": {"strides": (8, 16, 32)},
    "head": {"in_channels": 64, "num_anchors": (3, 3, 3)},
    "cascade": {"in_channels": 64, "num_anchors": (1, 1, 1), "strides": (8, 16, 32)},
    "refine": {"in_channels": 64, "strides": (8, 16, 32)},
    "augment": {},
    "logger": {"save_dir": "/nowhere"},
}
OTHER = {  # another value where adding or negating gives none
    "proposals.tiers": [[100, 0.7], [1000, 0.85]],
    "proposals.thresholds": [0.5, 0.6, 0.7, 0.8, 0.9],
    "proposals.vote_sigma": 0.01,
    "anchor.sizes": [16, 24, 48],
    "anchor.shapes": [[[16, 32]], [[32, 64]], [[64, 128]]],
    "anchor.scale": 3,
    "anchor.scales_per_octave": 2,
    "anchor.offset": 0.25,
    "anchor.k": 6,
    "anchor.ratios": [1, 3, 4],
    "anchor.form": "grid",
    "anchor.size_range": [1, 8],
    "anchor.order": {"size": "ratio", "ratio": "size"},
    "anchor.stride": {"declared": "inferred", "inferred": "declared"},
    "head.objectness": {"softmax": "sigmoid", "sigmoid": "softmax"},
    "head.channels": 32,
    "coder.weights": [10, 10, 5, 5],
    "coder.means": [0, 0, -1, -1],
    "assigner.low_quality_floor": 0.2,
    "assigner.ignore_iof": 0.7,
    "assigner.border": 4,
    "assigner.centre": 0.3,
    "assigner.ignored": 0.6,
    "assigner.foreground_iou": 0.6,
    "loss.divisor": {"sampled": "budget", "budget": "locations", "locations": "positives"},
    "sampler.edges": [0.15, 0.25],
    "quality.score": "quality",
    "quality.least_iou": 0.5,
    "backbone.batch_norm": {"frozen": "trainable", "trainable": "frozen"},
    "backbone.name": {"resnet18": "resnet34", "resnet50": "resnet34"},
    "backbone.frozen_stages": {0: 1, 2: 3},
    "backbone.out_indices": [2, 3, 4],
    "backbone.channels": 32,
    "backbone.fpn_channels": 64,
    "augment.scale": [0.9, 1.1],
    "trainer.strategy": "ddp",
    "trainer.precision": 16,
    "scheduler.milestones": [0.5],
    "quality.background": 256,
    "anchor.seed": 1,
}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if path.stem != "loading")


ALL = [(group, choice) for group in GROUPS if group not in NOT_BUILT for choice in choices(group)]


def composed(group: str, choice: str) -> dict[str, Any]:
    return deepcopy(_composed(group, choice))


@cache
def _composed(group: str, choice: str) -> dict[str, Any]:
    overrides = [f"{group}={choice}", *NEEDED.get(group, []), *NEEDED.get(choice, [])]
    return check_overrides("train", CONFIGS, overrides)[group]


def targets(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node that names a constructor, from the outside in."""
    if node.get("_target_") is not None:
        yield node
    for child in node.values():
        if isinstance(child, dict):
            yield from targets(child)


@pytest.mark.parametrize(("group", "choice"), ALL)
def test_every_key_is_an_argument_of_its_constructor(group, choice):
    for node in targets(composed(group, choice)):
        accepted = set(inspect.signature(get_object(node["_target_"])).parameters)
        given = {key for key in node if key not in ("_target_", "_partial_")}
        assert given <= accepted, f"{node['_target_']} takes no {given - accepted}"


@pytest.mark.parametrize(("group", "choice"), ALL)
def test_every_number_has_a_range_in_its_constructors_signature(group, choice):
    for node in targets(composed(group, choice)):
        rules = arguments_of(get_object(node["_target_"]))
        for key, value in node.items():
            of_texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
            if isinstance(value, (bool, str, dict)) or value is None or of_texts:
                continue
            assert key in rules, f"{node['_target_']} says nothing about {key}"
            assert rules[key].accepts(value), f"{key}={value} is no {rules[key].wanted}"
            outside = [-2] if isinstance(value, list) else -2
            assert not rules[key].accepts(outside), f"{node['_target_']}: {key}={outside} passes"
            assert not rules[key].accepts(float("nan")), key


def test_every_choice_is_reachable_and_every_command_setting_has_a_key():
    known = {"seed", "start", "resume", "debug.look", "preflight", "preflight_least"}
    known |= set(leaf_keys(check_overrides("study", CONFIGS, [])))
    known |= set(leaf_keys(check_overrides("compare", CONFIGS, ["runs=multirun"])))
    known |= set(leaf_keys(check_overrides("evaluate", CONFIGS, ["run=outputs"])))
    known |= set(leaf_keys(check_overrides("propose", CONFIGS, ["run=outputs", "source=photos"])))
    known |= set(leaf_keys(check_overrides("export", CONFIGS, ["run=outputs"])))
    known |= set(leaf_keys(check_overrides("explain", CONFIGS, ["run=outputs", "image=photo.jpg"])))
    assert set(COMMAND_SETTINGS) <= known, set(COMMAND_SETTINGS) - known


def other_value(key: str, value: Any) -> Any:
    other = OTHER.get(key)
    if isinstance(other, dict):
        return other[value]
    if other is not None:
        return other
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1 if isinstance(value, int) and value >= 1 else value / 2 + 0.13
    raise AssertionError(f"say in OTHER what else {key}={value} could be")


def state(thing: Any) -> Any:
    """What an object is made of, for comparison: attributes, and of modules also shapes and what trains."""
    if isinstance(thing, nn.Module):
        named = [(name, tuple(p.shape), p.requires_grad) for name, p in thing.named_parameters()]
        return named, repr(thing), state({k: v for k, v in vars(thing).items() if not k.startswith("_")})
    if isinstance(thing, torch.Tensor):
        return thing.tolist()
    if isinstance(thing, dict):
        return {key: state(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [state(value) for value in thing]
    return state(vars(thing)) if type(thing).__module__.startswith("anchorlab") else repr(thing)


PARTS = [
    (group, choice, key)
    for group in (
        *("anchor", "head", "coder", "assigner", "sampler", "loss", "objectness", "quality", "proposals", "cascade"),
        *("refine", "augment", "backbone"),
    )
    for choice in choices(group)
    for key in composed(group, choice)
    if key not in ("_target_", "weights") and (choice, key) not in {("timm_fpn", "name")}
    if not isinstance(composed(group, choice)[key], dict)
]


@pytest.mark.parametrize(("group", "choice", "key"), PARTS)
def test_changed_value_changes_what_is_built(group, choice, key):
    node = composed(group, choice)
    levels = {"paper": (16,), "fpn": (4, 8, 16, 32, 64), "torchvision": (4, 8, 16, 32, 64)}
    derived = DERIVED.get(group, {}) | ({"strides": levels.get(choice, (8, 16, 32))} if group == "anchor" else {})
    if "weights" in node and group == "backbone":
        node["weights"] = "none"
    changed = {**node, key: other_value(f"{group}.{key}", node[key])}
    if group == "anchor" and choice != "fit":
        node, changed = suited(choice, key, node, changed)
    assert state(outcome(build(node, **derived))) != state(outcome(build(changed, **derived)))


@pytest.mark.parametrize(("part", "key"), [("assigner", "centre"), ("assigner", "ignored"), ("coder", "weights")])
def test_changed_value_changes_the_parts_of_a_cascade(part, key):
    node, other = composed("cascade", "two_stage"), composed("cascade", "two_stage")
    other[part][key] = {"centre": 0.3, "ignored": 0.6, "weights": [1, 1, 1, 1]}[key]
    assert state(build(node, **DERIVED["cascade"])) != state(build(other, **DERIVED["cascade"]))


def test_changed_coder_changes_the_second_look():
    node, other = composed("refine", "roi"), composed("refine", "roi")
    other["coder"]["weights"] = [1, 1, 1, 1]
    assert state(build(node, **DERIVED["refine"])) != state(build(other, **DERIVED["refine"]))


def suited(choice: str, key: str, *nodes: dict[str, Any]) -> list[dict[str, Any]]:
    """Anchor settings exclude each other: give the changed key the company it can be in."""
    before, after = nodes
    if key == "k":
        after = {**after, "scale": 4, "sizes": None}
        before = {**after, "k": None}
    elif key in ("scale", "sizes"):
        company = {"scale": {"sizes": None, "scale": 3}, "sizes": {"scale": None}}[key]
        count = {"paper": 1, "fpn": 5, "torchvision": 5}.get(choice, 3)
        after = {**after, **company, **({"sizes": [20] * count} if key == "sizes" else {})}
    elif key == "shapes":
        count = {"paper": 1, "fpn": 5, "torchvision": 5}.get(choice, 3)
        after = {**after, "sizes": None, "scale": None, "shapes": [[[16, 32]]] * count}
    elif key == "order":  # of sizes and ratios: where a level has one size, there is no order
        before, after = ({**node, "scales_per_octave": 2} for node in nodes)
    return [before, after]


def outcome(part: Any) -> Any:
    """Of anchors their boxes on a grid that no stride divides (how they lie is no attribute); else the part itself."""
    if not hasattr(part, "num_anchors") or isinstance(part, nn.Module):
        return part
    grids = [(-(-203 // stride), -(-331 // stride)) for stride in part.strides]
    return part(grids, (203, 331), "cpu").boxes


@pytest.mark.parametrize(("group", "choice"), [(g, c) for g in ("optimizer", "scheduler") for c in choices(g)])
def test_changed_value_changes_the_course_of_training(group, choice):
    def course(node: dict[str, Any]) -> list[Any]:
        parameters = [nn.Parameter(torch.ones(3))]
        if group == "optimizer":
            return [build(node)(parameters).defaults]
        optimizer = torch.optim.SGD(parameters, lr=1.0)
        schedule = build(node)(optimizer, 20)
        rates = []
        for _ in range(20):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return rates

    node = composed(group, choice)
    for key in set(node) - {"_target_", "_partial_"}:
        assert course({**node, key: other_value(f"{group}.{key}", node[key])}) != course(node), key


def test_every_choice_of_data_builds_a_reader_with_each_key(tmp_path):
    for choice in choices("data"):
        node = composed("data", choice)
        module = build({**node, "root": str(tmp_path)}, augment=None, seed=0)
        assert module.batch_size == node["batch_size"]
        assert OmegaConf.create(node["reader"])  # plain containers all the way down


class Noted(dict):
    """A config that remembers which groups were asked for."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def test_the_network_is_built_of_the_groups_that_are_said_to_make_it():
    config = Noted(check_overrides("train", CONFIGS, ["quality=iou"]))
    build_network(config)
    assert config.asked == set(NETWORK_GROUPS)
