"""The W&B workspace: its specification, as it would be sent; no server is asked."""

import json
import re

import pytest
import yaml

from anchorlab.cli.overrides import check_overrides
from anchorlab.comparing.comparison import Comparison, Question, compare
from anchorlab.comparing.scores import read_runs
from anchorlab.comparing.statistics import Bootstrap
from anchorlab.comparing.wandb_workspace import saved, workspace
from anchorlab.errors import SettingError
from tests.comparing.material import config, write_run
from tests.config.test_conf import CONFIGS


@pytest.fixture(scope="module")
def comparison(sweep) -> Comparison:
    runs, _ = read_runs(str(sweep))
    return compare(runs, Question(baseline="ratios=[1]", bootstrap=Bootstrap(resamples=200)))


@pytest.fixture(scope="module")
def specification(comparison) -> dict:
    view = workspace(comparison, "somebody", "anchorlab", "anchors")._to_model()
    return json.loads(view.model_dump_json(by_alias=True, exclude_none=True))


def panels(specification: dict, kind: str) -> list[dict]:
    sections = specification["spec"]["section"]["panelBankConfig"]["sections"]
    return [panel["config"] for section in sections for panel in section["panels"] if panel["viewType"] == kind]


def test_every_view_of_the_page_is_there(specification):
    sections = specification["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == ["Recall", "Anchors", "Images", "Runs side by side"]
    assert [chart["fieldSettings"] for chart in panels(specification, "Vega2")] == [
        {"x": "N", "y": "IoU 0.50"},
        {"x": "N", "y": "IoU 0.70"},
    ]
    lines = {metric for line in panels(specification, "Run History Line Plot") for metric in line["metrics"]}
    assert {"val/recall_100", "val/recall_1000", "val/AR_100"} <= lines
    assert panels(specification, "Parameter Importance")[0]["targetKey"] == "AR_100"
    assert len(panels(specification, "Run Comparer")) == 1


def test_bars_and_coordinates_follow_the_axes_that_differ(specification):
    grouped = {bar.get("groupBy") for bar in panels(specification, "Bar Chart")} - {None}
    assert grouped == {"k.value", "ratio_span.value", "anchors_per_image.value", "anchor.value.ratios"}
    (parallel,) = panels(specification, "Parallel Coordinates Plot")
    accessors = [column["accessor"] for column in parallel["columns"]]
    assert accessors[-1] == "summary:AR_100"
    assert "config:k.value" in accessors
    assert "config:anchor.value.ratios" in accessors


def test_pictures_go_by_the_keys_that_training_logs(specification):
    keys = [key for media in panels(specification, "Media Browser") for key in media["mediaKeys"]]
    assert keys == ["val/image_picture_0", "val/image_picture_1", "val/image_picture_2"]
    assert all(re.fullmatch(r"[\w/]+", key) for key in keys)


def test_only_the_runs_that_were_compared_and_the_baseline_pinned(comparison, specification):
    text = json.dumps(specification)
    table = comparison.tables[0]
    assert table.baseline is not None
    assert all(run.id in text for entry in table.entries for run in entry.runs)


def test_runs_of_sweeps_are_picked_by_their_groups(tmp_path):
    for k in (3, 6):
        write_run(
            tmp_path / str(k), config(anchor__k=k, logger={"name": None, "group": "2026-11-22_10-00-00"}), images=3
        )
    runs, _ = read_runs(str(tmp_path))
    built = workspace(compare(runs, Question(bootstrap=Bootstrap(resamples=100))), "me", "anchorlab", "x")
    assert "2026-11-22_10-00-00" in json.dumps(json.loads(built._to_model().model_dump_json(by_alias=True)))


def test_seeds_of_a_setting_are_a_group_and_swept_settings_come_first(tmp_path):
    for k in (1, 3):
        for seed in (0, 1):
            write_run(tmp_path / f"{k}-{seed}", config(anchor__k=k, seed=seed), images=3)
    runs, _ = read_runs(str(tmp_path))
    built = workspace(compare(runs, Question(bootstrap=Bootstrap(resamples=100))), "me", "anchorlab", "x")
    model = json.loads(built._to_model().model_dump_json(by_alias=True))
    (runset,) = model["spec"]["section"]["runSets"]
    assert [group["name"] for group in runset["grouping"]] == ["k.value"]
    assert built.runset_settings.pinned_columns[:2] == ["run:displayName", "config:k.value"]


def test_without_credentials_saving_is_one_sentence(comparison, monkeypatch, tmp_path):
    for name, value in (("WANDB_API_KEY", None), ("NETRC", str(tmp_path / "none")), ("HOME", str(tmp_path))):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(SettingError, match=r"wandb\.save: W&B did not take the workspace") as caught:
        saved(comparison, "me", "anchorlab", "x")
    assert "\n" not in str(caught.value)


def test_the_sweep_for_wandb_agents_runs_our_own_command():
    sweep = yaml.safe_load((CONFIGS / "wandb_sweep.yaml").read_text())
    assert (sweep["program"], sweep["early_terminate"]["type"]) == ("train.py", "hyperband")
    assert sweep["command"][-1] == "${args_no_hyphens}"
    fixed = [word for word in sweep["command"] if "=" in word]
    for key, parameter in sweep["parameters"].items():
        for value in parameter.get("values", [parameter.get("min"), parameter.get("max")]):
            check_overrides("train", CONFIGS, [*fixed, f"{key}={value}"])
