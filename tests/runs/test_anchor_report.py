"""anchors.json: what training wrote is read back; a file that holds anything else is named."""

import json

import pytest

from anchorlab.runs.anchor_report import NAME, read_diagnosis
from tests.comparing.material import made_up_diagnosis


def test_what_training_wrote_is_read_back(tmp_path):
    assert read_diagnosis(tmp_path) is None
    written = made_up_diagnosis(3, 0.9)
    written["funnel"][0]["recall_50"] = None  # without objects
    (tmp_path / NAME).write_text(json.dumps(written))
    read = read_diagnosis(tmp_path)
    assert read is not None
    assert (read["images"], read["budget"], read["AR"]) == (8, 100, 0.5)
    assert read["funnel"] == written["funnel"]
    assert [shape["matched"] for shape in read["shapes"]] == [0.5, 0.5, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"funnel": [1]},
        {"funnel": [{"stage": 1, "recall_50": 0, "recall_70": 0, "AR": 0}]},
        {"shapes": [{"width": "<b>"}]},
        {"AR": None},
    ],
)
def test_anything_else_is_named_in_one_sentence(tmp_path, change):
    (tmp_path / NAME).write_text(json.dumps(made_up_diagnosis(3, 0.9) | change))
    with pytest.raises(ValueError, match=r"anchors\.json cannot be read") as caught:
        read_diagnosis(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_torn_file_is_named(tmp_path):
    (tmp_path / NAME).write_text("{")
    with pytest.raises(ValueError, match=r"anchors\.json cannot be read"):
        read_diagnosis(tmp_path)
