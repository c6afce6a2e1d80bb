"""A sweep's settings are looked at in a process apart, and a wrong one is one sentence."""

import sys

import pytest

from anchorlab.errors import SettingError
from anchorlab.sweeps.check import check_signatures_apart

GRID = {"_target_": "anchorlab.rpn.anchors.AnchorGrid"}


def test_wrong_value_of_any_config_is_named():
    check_signatures_apart([{"anchor": GRID}])
    with pytest.raises(SettingError, match=r"^anchor\.k=0 is not possible"):
        check_signatures_apart([{}, {"anchor": {**GRID, "k": 0}}])


def test_class_beside_the_script_is_found_and_what_its_module_prints_is_no_answer(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("print('imported')\ndef mine(width: int = 1): ...\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    check_signatures_apart([{"callbacks": {"mine": {"_target_": "beside.mine", "width": 2}}}])
    with pytest.raises(SettingError, match=r"^callbacks\.mine\.width=wide is not possible"):
        check_signatures_apart([{"callbacks": {"mine": {"_target_": "beside.mine", "width": "wide"}}}])
