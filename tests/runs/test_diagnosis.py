"""diagnosis.json: tables are kept in order, one of each title; a file that holds anything else is named."""

import pytest

from anchorlab.runs.diagnosis import NAME, Diagnosis, read_diagnoses, write_diagnosis

FUNNEL = Diagnosis("funnel", ["stage", "boxes"], [["all", 10], ["found", 0.5], ["left", None]])


def test_tables_are_read_back_and_replaced_by_title(tmp_path):
    assert read_diagnoses(tmp_path) == []
    write_diagnosis(tmp_path, Diagnosis("funnel", ["stage"], [["old"]]))
    write_diagnosis(tmp_path, Diagnosis("anchors", ["level", "found"], []))
    write_diagnosis(tmp_path, FUNNEL)
    assert read_diagnoses(tmp_path) == [Diagnosis("anchors", ["level", "found"], []), FUNNEL]


@pytest.mark.parametrize("content", ["{", "[1]", '[{"title": "a"}]', '[{"title":"a","heads":["x"],"rows":[[1,2]]}]'])
def test_anything_else_is_named_in_one_sentence(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with pytest.raises(ValueError, match=r"diagnosis\.json cannot be read") as caught:
        read_diagnoses(tmp_path)
    assert "\n" not in str(caught.value)
