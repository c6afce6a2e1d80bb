"""Each wrong setting is one sentence that names the key, the value and what would be right."""

import pytest

from anchorlab.build import build
from anchorlab.config.settings import (
    COMMAND_SETTINGS,
    check,
    check_keys,
    check_kinds,
    check_signatures,
    nearest_word,
    unknown_key,
)
from anchorlab.errors import SettingError

MAX_IOU = {"_target_": "anchorlab.rpn.assigners.max_iou.MaxIoUAssigner"}
GRID = {"_target_": "anchorlab.rpn.anchors.AnchorGrid"}
DATA = {
    "_target_": "anchorlab.data.module.DataModule",
    "root": "/nowhere",
    "reader": {"_target_": "anchorlab.data.voc.VocReader", "_partial_": True},
}


def test_zero_is_a_value():
    config = {"seed": 0, "assigner": {**MAX_IOU, "low_quality_floor": 0, "border": 0, "background_iou": 0}}
    check(config)
    check_signatures(config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"anchor": {**GRID, "k": 0}}, ["anchor.k=0", "at least 1 or null"]),
        ({"anchor": {**GRID, "ratios": [0.5, -1]}}, ["anchor.ratios=[0.5,-1]", "positive numbers"]),
        ({"assigner": {**MAX_IOU, "foreground_iou": 1.5}}, ["assigner.foreground_iou=1.5", "above 0 and up to 1"]),
        ({"cascade": {"_target_": None, "assigner": {**MAX_IOU, "border": -1}}}, ["cascade.assigner.border=-1"]),
        ({"assigner": {"_target_": "anchorlab.rpn.nothing.There"}}, ["assigner._target_", "cannot be imported"]),
        ({"data": {**DATA, "reader": {**DATA["reader"], "difficult": "kep"}}}, ["data.reader.difficult=kep"]),
    ],
)
def test_value_that_the_signature_refuses_is_one_sentence(config, words):
    with pytest.raises(SettingError) as error:
        check_signatures(config)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_images_need_a_size():
    with pytest.raises(SettingError, match=r"data\.short and data\.long are both null.*data\.long=416"):
        check({"data": {**DATA, "short": None, "long": None}})


@pytest.mark.parametrize(
    ("key", "group", "derived", "words"),
    [
        ("assigner", {**MAX_IOU, "background_iou": 0.8}, {}, ["assigner.background_iou=0.8", "lower the first"]),
        ("data", {**DATA, "short": 800, "long": 600}, {}, ["data.short=800", "data.long=600"]),
        ("anchor", {**GRID, "scale": 4, "k": 7}, {"strides": (8,)}, ["anchor.k=7", "ratios=[0.5"]),
    ],
)
def test_arguments_at_odds_are_one_sentence_with_their_keys(key, group, derived, words):
    with pytest.raises(SettingError) as error:
        build(group, key, **derived)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sizes", "long", "words"), [([32], 15, ["32", "data.long=15"]), ([[1024], [2048]], 416, ["1024", "416"])]
)
def test_anchors_beyond_the_image_are_one_sentence(sizes, long, words):
    with pytest.raises(SettingError) as error:
        check({"anchor": {"sizes": sizes}, "data": {"long": long, "short": None}})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_command_settings_are_no_groups_keys():
    assert all(
        "." not in key or key.split(".")[0] in ("debug", "bootstrap", "wandb", "eval") for key in COMMAND_SETTINGS
    )


def test_anchors_of_twice_the_image_pass_and_larger_do_not():
    config = {"anchor": {"sizes": [512]}, "data": {"long": 256, "short": None}}
    check(config)
    config["anchor"]["sizes"] = [513]
    with pytest.raises(SettingError, match="513"):
        check(config)


def test_unknown_key_is_refused_with_the_nearest():
    with pytest.raises(SettingError, match=r"anchor\.ratio is not a setting: did you mean anchor\.ratios"):
        check_keys({"anchor": {"ratio": [1]}}, {"anchor": {"ratios": [1], "k": None}})


def test_nearest_looks_at_the_last_part_of_a_key():
    assert nearest_word("data.epochs", ["trainer.epochs", "anchor.k"]) == "trainer.epochs"
    assert nearest_word("zzz", ["anchor.k"]) is None
    assert "--cfg job" in unknown_key("zzz", ["anchor.k"])


@pytest.mark.parametrize(("value", "default"), [("yes", True), (1, True), (1.5, 2), (None, 2), ([1], 2), (3, [3])])
def test_value_of_another_kind_is_refused(value, default):
    with pytest.raises(SettingError, match=r"group\.key="):
        check_kinds({"group": {"key": value}}, {"group": {"key": default}})


@pytest.mark.parametrize(("value", "default"), [(1, 2.5), (False, True), (3, "text"), ([], [1]), (5, None)])
def test_value_of_the_same_kind_passes(value, default):
    check_kinds({"group": {"key": value}}, {"group": {"key": default}})
