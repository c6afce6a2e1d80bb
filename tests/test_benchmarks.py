"""Every benchmark on its smallest problem, once: it runs, it says what it measured and where. No time is judged."""

import ast
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import __main__ as runner
from benchmarks import measure, scaling

ROOT = Path(__file__).parents[1]
SETTING = {"threads", "layout", "precision", "repeats", "commit", "processor", "cores", "versions"}


@pytest.fixture
def threads():
    """Benchmarks set torch's threads for their process, which here is everybody's."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


MINUTE_LONG = {"load", "sweep", "time_to_recall"}  # whole trainings, several of them


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in MINUTE_LONG else ()) for name in runner.names()]
)
@pytest.mark.usefixtures("threads")
def test_benchmark_runs_and_leaves_its_tables(name, tmp_path, monkeypatch):
    for variable in measure.THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")
    importlib.import_module(f"benchmarks.{name}").main(measure.Options(quick=True, results=tmp_path))
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert set(written["setting"]) >= SETTING
    assert "host" not in written["setting"]
    assert written["rows"]
    table = (tmp_path / f"{name}.md").read_text()
    assert all(f"| {column} |" in table for column in written["rows"][0])


def test_rounds_alternate_and_the_first_does_not_count():
    calls: list[str] = []
    timing = measure.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2)
    assert "".join(calls) == "ababab"
    assert [len(one.seconds) for one in timing.values()] == [2, 2]


def test_ratio_is_of_medians_and_its_range_of_single_rounds():
    ours, theirs = measure.Timing((1.0, 2.0, 4.0)), measure.Timing((6.0, 2.0, 4.0))
    assert ours.times_faster(theirs) == 2.0
    assert ours.range_of_rounds(theirs) == "1 to 6"


def take_mib(num: int, hold: bool):
    """A call that fills `num` MiB, after its builder filled twice as many and perhaps kept them."""
    kept = [torch.ones(2 * num << 20, dtype=torch.uint8)] if hold else []
    torch.ones(2 * num << 20, dtype=torch.uint8)
    return lambda: (torch.ones(num << 20, dtype=torch.uint8), len(kept))


@pytest.mark.skipif(not measure.CLEAR_REFS.exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("hold", [False, True])
def test_memory_is_what_the_call_adds(hold):
    assert measure.peak_memory(take_mib, 64, hold).growth == pytest.approx(64, abs=4)


def killed():
    """A call that ends as a process does whose memory ran out."""
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not measure.CLEAR_REFS.exists(), reason="peak memory is read from Linux's /proc")
def test_a_side_that_is_killed_ends_the_benchmark():
    with pytest.raises(BrokenProcessPool):
        measure.peak_memory(killed)


@pytest.mark.parametrize(("power", "name"), [(0, "none"), (0.5, "less than linear"), (1, "linear"), (2, "quadratic")])
def test_growth_is_named_by_the_slope_on_logarithmic_axes(power, name):
    values = [400, 640, 1600]
    exponent = scaling.exponent(values, [7 * value**power for value in values])
    assert exponent == pytest.approx(power, abs=1e-9)
    assert scaling.growth(exponent) == name


def test_runner_refuses_a_name_that_is_none():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "asignment"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("There is no benchmark asignment: choose from ")


def test_gpu_script_lays_out_what_its_tests_import():
    script = (ROOT / "benchmarks" / "gpu.sh").read_text()
    listed = " ".join(re.findall(r'^(?:PRESENT|TESTS)="(.*)"', script, re.MULTILINE)).split()
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    there = {canonicalize_name(name) for name in [*listed, *(Requirement(text).name for text in asked)]}
    of_module = packages_distributions()
    for file in ("tests/conftest.py", "tests/test_device.py", "benchmarks/gpu.py", "benchmarks/measure.py"):
        nodes = list(ast.walk(ast.parse((ROOT / file).read_text())))
        modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        own = {"anchorlab", "benchmarks", "tests"}
        others = {module.partition(".")[0] for module in modules} & set(of_module) - own
        assert {canonicalize_name(of_module[module][0]) for module in others} <= there, file
