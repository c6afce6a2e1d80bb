"""Each wrong setting is one sentence that names the key, the value and what would be right."""

import pytest

from anchorlab.config.settings import Choice, Number, Numbers, check, check_keys, check_kinds, nearest_word, unknown_key
from anchorlab.errors import SettingError


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (Number(0, 1), [0, 1, 0.5], [-0.001, 1.001, True, "0.5", None, float("nan")]),
        (Number(0, above=True), [1e-9, 3], [0, -1, float("inf")]),
        (Number(1, whole=True), [1, 10**6], [0, 1.5, 1.0, True]),
        (Number(1, whole=True, null=True), [None, 1], [0]),
        (Number(1, whole=True, auto=True), ["auto", 2], [0, None, "all"]),
        (Choice(("a", 32, None)), ["a", 32, None], ["b", "32", True]),
        (Numbers(), [[1, 2.5], [[1], [2, 3]], None], [[], [0], [-1], [1, [2]], 3, "1", [[[1]]]]),
        (Numbers(depth=(3,)), [[[[16, 32]]], None], [[16, 32], [[16, 32]]]),
    ],
)
def test_rule_accepts_and_refuses(rule, good, bad):
    assert [value for value in good if not rule.accepts(value)] == []
    assert [value for value in bad if rule.accepts(value)] == []


def test_zero_is_a_value():
    check({"seed": 0, "augment": {"flip": 0}, "assigner": {"low_quality_floor": 0, "border": 0}})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"anchor": {"k": 0}}, ["anchor.k=0", "at least 1 or null"]),
        ({"anchor": {"ratios": [0.5, -1]}}, ["anchor.ratios=[0.5,-1]", "positive numbers"]),
        ({"assigner": {"background_iou": 0.8, "foreground_iou": 0.7}}, ["0.8", "0.7", "lower the first"]),
        ({"data": {"short": None, "long": None}}, ["data.short", "data.long", "416"]),
        ({"data": {"short": 800, "long": 600}}, ["data.short=800", "data.long=600"]),
        (
            {"anchor": {"sizes": [32, [1024]][:1]}, "data": {"long": 15, "short": None}},
            ["32", "data.long=15"],
        ),
        ({"anchor": {"sizes": [[32], [2048]]}, "data": {"long": 416}}, ["2048", "416"]),
    ],
)
def test_wrong_setting_is_one_sentence(config, words):
    with pytest.raises(SettingError) as error:
        check(config)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


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
