"""metrics.csv: what is logged is read back, late columns too, and a resumed run forgets the right rows."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorlab.runs.metrics import MetricsCSV, read_metrics

figures = st.dictionaries(
    st.sampled_from(["train/loss", "val/AR_100", "lr", "epoch"]), st.floats(allow_nan=False), max_size=4
)


@given(rows=st.lists(figures, min_size=1, max_size=8))
@settings(max_examples=50)
def test_what_is_logged_is_read_back(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "metrics.csv"
    log = MetricsCSV(path)
    for step, row in enumerate(rows):
        log.append(step, row)
    curves = read_metrics(path)
    assert curves["step"].tolist() == list(range(len(rows)))
    for name in set().union(*rows):
        np.testing.assert_array_equal(curves[name], [row.get(name, math.nan) for row in rows])


def test_a_late_column_leaves_the_earlier_rows_empty(tmp_path):
    log = MetricsCSV(tmp_path / "new" / "metrics.csv")
    log.append(0, {"epoch": 0, "train/loss": 2.5})
    log.append(9, {"epoch": 0, "val/AR_100": 0.25})
    assert log.path.read_text() == "step,epoch,train/loss,val/AR_100\n0,0,2.5,\n9,0,,0.25\n"


def test_cut_back_keeps_the_steps_before_the_checkpoint_and_going_on_appends(tmp_path):
    path = filled(tmp_path, steps=5)
    resumed = MetricsCSV(path)
    resumed.cut_back(3, scored_step=None)
    resumed.append(3, {"train/loss": 7.0})
    assert read_metrics(path)["train/loss"].tolist() == [0.0, 1.0, 2.0, 7.0]


def test_cut_back_before_the_first_row_is_nothing(tmp_path):
    MetricsCSV(tmp_path / "metrics.csv").cut_back(3, scored_step=None)
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_a_crash_cut_off_is_left_out_and_not_continued(tmp_path):
    path = filled(tmp_path, steps=3)
    path.write_text(path.read_text()[:-3])
    assert read_metrics(path)["step"].tolist() == [0, 1]
    MetricsCSV(path).append(2, {"train/loss": 5.0})
    assert read_metrics(path)["train/loss"].tolist() == [0.0, 1.0, 5.0]


@pytest.mark.parametrize("text", ["", "loss\n1\n", "step,loss\n1,much\n", "step\n\xff\n"])
def test_what_is_no_metrics_file_is_named(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"metrics\.csv cannot be read"):
        read_metrics(path)


def filled(folder: Path, steps: int) -> Path:
    log = MetricsCSV(folder / "metrics.csv")
    for step in range(steps):
        log.append(step, {"train/loss": float(step)})
    return log.path
