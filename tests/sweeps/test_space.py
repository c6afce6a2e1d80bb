"""What a sweep varies, from its own settings and from what was typed."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorlab.errors import SettingError
from anchorlab.sweeps.space import read_space

PARAMS = {"anchor.k": [3, 6], "anchor.ratios": [[0.5, 1, 2], [1]], "anchor.sizes": None}


def test_points_are_command_lines_with_the_last_axis_fastest():
    space = read_space(PARAMS, ["data.root='/a b'"])
    assert space.fixed == ("anchor.sizes=null", "data.root='/a b'")
    assert [space.overrides(point)[2:] for point in space.points()] == [
        ["anchor.k=3", "anchor.ratios=[0.5,1,2]"],
        ["anchor.k=3", "anchor.ratios=[1]"],
        ["anchor.k=6", "anchor.ratios=[0.5,1,2]"],
        ["anchor.k=6", "anchor.ratios=[1]"],
    ]


def test_what_is_typed_goes_before_the_sweeps_own_values_and_the_sweeps_settings_reach_no_job():
    space = read_space(PARAMS, ["anchor.k=9", "sweep=anchors", "sweep.dry_run=true", "anchor.ratios=[1],[2]"])
    assert set(space.fixed) == {"anchor.k=9", "anchor.sizes=null"}
    assert [axis.values for axis in space.axes] == [("[1]", "[2]")]


def test_intervals_have_no_points_but_a_scale():
    space = read_space({}, ["optimizer.lr=tag(log, interval(0.001,0.1))", "head.channels=int(interval(8,32))"])
    rate, channels = space.axes
    assert (rate.low, rate.high, rate.log, rate.whole) == (0.001, 0.1, True, False)
    assert (channels.low, channels.high, channels.log, channels.whole) == (8, 32, False, True)
    with pytest.raises(SettingError, match=r"optimizer\.lr.*sweep=tpe"):
        space.points()


@pytest.mark.parametrize("wrong", ["a=interval(2,1)", "a=tag(log, interval(0,1))", "a=range(3,3)"])
def test_empty_axes_are_refused_by_name(wrong):
    with pytest.raises(SettingError, match="a="):
        read_space({}, [wrong])


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=4, unique=True), min_size=1, max_size=3))
def test_every_combination_comes_once(values):
    arguments = [f"key{index}=choice({','.join(map(str, options))})" for index, options in enumerate(values)]
    points = list(read_space({}, arguments).points())
    expected = {tuple(f"key{i}={v}" for i, v in enumerate(chosen)) for chosen in itertools.product(*values)}
    assert len(points) == len(expected)
    assert set(points) == expected
