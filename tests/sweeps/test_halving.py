"""How far successive halving lets how many jobs go, on paper."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorlab.errors import SettingError
from anchorlab.sweeps.halving import Halving


@pytest.mark.parametrize(
    ("epochs", "stops"), [(9, [1, 3, 9]), (10, [1, 3, 10]), (12, [1, 4, 12]), (2, [1, 2]), (27, [3, 9, 27])]
)
def test_rungs_are_a_ninth_and_a_third_of_the_schedule(epochs, stops):
    assert Halving().stops(epochs) == stops


def test_own_rungs_end_with_the_schedule():
    assert Halving(rungs=[2, 4]).stops(6) == [2, 4, 6]
    assert Halving(rungs=[2, 6]).stops(6) == [2, 6]


@pytest.mark.parametrize("rungs", [[4, 2], [7], [2, 2]])
def test_wrong_rungs_are_refused_by_name(rungs):
    with pytest.raises(SettingError, match=r"sweep\.rungs=.*trainer\.epochs=6"):
        Halving(rungs=rungs).stops(6)


def test_a_rung_before_the_first_epoch_is_refused():
    with pytest.raises(ValueError, match=r"rungs=\[0,2\]"):
        Halving(rungs=[0, 2])


def test_a_schedule_without_a_rung_is_refused():
    with pytest.raises(SettingError, match=r"trainer\.epochs=1"):
        Halving().stops(1)


def test_nine_jobs_on_paper():
    halving = Halving()
    assert halving.fields(9, 3) == [9, 3, 1]
    # 9 jobs for 1 epoch, 3 for 2 more, 1 for 6 more, of 81.
    assert halving.share([9, 3, 1], [1, 3, 9]) == pytest.approx((9 + 6 + 6) / 81)


@settings(max_examples=50)
@given(jobs=st.integers(1, 200), epochs=st.integers(2, 100), factor=st.integers(2, 5))
def test_fields_shrink_by_the_factor_and_never_to_nothing(jobs, epochs, factor):
    halving = Halving(factor=factor)
    stops = halving.stops(epochs)
    fields = halving.fields(jobs, len(stops))
    assert fields[0] == jobs
    assert all(math.ceil(before / factor) <= after <= before for before, after in pairwise(fields))
    assert 0 < halving.share(fields, stops) <= 1


@settings(max_examples=50)
@given(jobs=st.integers(9, 200), ninth=st.integers(1, 10))
def test_a_third_of_the_compute_is_enough(jobs, ninth):
    halving = Halving()
    stops = halving.stops(9 * ninth)
    assert halving.share(halving.fields(jobs, len(stops)), stops) <= 1 / 3 + 1 / jobs
