"""Coverage before training, in real runs: said, recorded, refused; anchors fitted inside a training and kept by it."""

import json
from pathlib import Path

import pytest
import yaml

from anchorlab.build import build_data, build_network
from anchorlab.cli.overrides import check_overrides
from anchorlab.config.identity import config_hash
from anchorlab.errors import SettingError
from anchorlab.training.preflight import fit_coder, look_ahead, with_fitted_anchors
from tests.commands.test_study import small, study

__all__ = ["small"]

CONFIGS = Path(__file__).parents[2] / "conf"
QUICK = ("logger=csv", "trainer.threads=1", "callbacks.pictures.images=0", "data.workers=0", "hydra.run.dir=run")


def record(folder: Path) -> dict:
    return json.loads((folder / "run" / "run.json").read_text())


@pytest.mark.long
def test_anchors_and_coder_are_fitted_kept_and_not_fitted_again_on_resume(small, tmp_path):
    fit = ("anchor=fit", "anchor.k=2", "anchor.boxes=200", "trainer.epochs=2", "callbacks.stop_after.epochs=1")
    done = study(tmp_path, *small, *QUICK, *fit, "data.batch_size=4", script="train.py")
    assert done.returncode == 0, done.stderr
    assert "training boxes have an anchor of IoU >= 0.7" in done.stdout
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["anchor"]["_target_"].endswith("AnchorGrid")
    assert [len(level) for level in config["anchor"]["shapes"]] == [2, 2, 2]
    axes = record(tmp_path)["axes"]
    assert axes["k"] == 2
    assert 0 < axes["coverage"] <= axes["possible_recall_50"] <= 1

    coder = config["coder"]
    assert coder["_target_"].endswith("FittedDeltaCoder")
    assert all(weight >= 1 for weight in coder["weights"])
    assert any(mean != 0 for mean in coder["means"])

    marked = json.loads(json.dumps(config))
    marked["anchor"]["shapes"][0][0] = [21.0, 21.0]  # what a second fit would not find
    marked["coder"]["means"][2] = -0.123
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(marked))
    resumed = study(tmp_path, "resume=run", script="train.py")
    assert resumed.returncode == 0, resumed.stderr
    assert record(tmp_path)["status"] == "finished"
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert kept["anchor"]["shapes"] == marked["anchor"]["shapes"]
    assert kept["coder"] == marked["coder"]


@pytest.mark.long
def test_too_little_coverage_warns_with_an_override_that_helps_or_refuses(small, tmp_path):
    hopeless = ("anchor.scale=0.5", "debug=one_step", "debug.look=0", "assigner=max_iou")
    refused = study(tmp_path, *small, *QUICK, *hopeless, "preflight=refuse", script="train.py")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    for words in ("preflight=refuse", "only 0.00 of the training boxes", "anchor=fit anchor.k=3 would cover"):
        assert words in refused.stderr
    content = record(tmp_path)
    assert content["status"] == "failed"
    assert "preflight=refuse" in content["reason"]

    warned = study(tmp_path, *small, *QUICK, *hopeless, "hydra.run.dir=run", script="train.py")
    assert warned.returncode == 0, warned.stderr
    assert "anchor=fit anchor.k=3 would cover" in " ".join(warned.stdout.split())
    assert record(tmp_path)["axes"]["coverage"] < 0.1


@pytest.fixture
def config(small) -> dict:
    return check_overrides("train", CONFIGS, list(small))


def test_nothing_is_computed_where_preflight_is_none(config):
    data, network = build_data(config), build_network(config)
    assert look_ahead({**config, "preflight": "none"}, data, network) is None
    found = look_ahead({**config, "preflight_least": 0.0}, data, network)
    assert found is not None
    assert found.warning is None


def test_an_assigner_that_does_not_go_by_iou_is_not_warned_of_coverage(config):
    data, network = build_data(config), build_network(config)
    config = {**config, "preflight_least": 1.0}
    found = look_ahead(config, data, network)
    assert found is not None
    assert found.warning is None
    assert "ATSSAssigner does not go by it" in found.line
    with pytest.raises(SettingError, match="preflight=refuse: only 0"):
        look_ahead({**config, "preflight": "refuse"}, data, network)


def test_threshold_itself_is_enough(small):
    config = check_overrides("train", CONFIGS, [*small, "assigner=max_iou"])
    data, network = build_data(config), build_network(config)
    found = look_ahead({**config, "preflight_least": 0.0}, data, network)
    assert found is not None
    exact = look_ahead({**config, "preflight_least": found.axes["coverage"]}, data, network)
    assert exact is not None
    assert exact.warning is None


def test_a_config_with_anchors_stays_as_it_is(config):
    assert with_fitted_anchors(config, build_data(config)) == config


def test_coder_is_fitted_to_the_network_and_changes_no_identity(config):
    data, network = build_data(config), build_network(config)
    data.setup()
    fitted = fit_coder(config, data, network)
    assert list(network.coder.weights) == fitted["coder"]["weights"]
    assert list(network.coder.means) == fitted["coder"]["means"]
    assert config_hash(fitted) == config_hash(config)
    assert fit_coder(fitted, data, build_network(fitted)) == fitted
    other = {**config, "coder": {**config["coder"], "images": 3}}
    assert config_hash(other) != config_hash(config)


@pytest.mark.parametrize("choice", [["coder=delta"], ["cascade=two_stage", "anchor.ratios=[1]", "assigner=max_iou"]])
def test_nothing_is_fitted_where_it_is_not_asked_for_or_anchors_move(choice, small):
    config = check_overrides("train", CONFIGS, [*small, *choice])
    data, network = build_data(config), build_network(config)
    data.setup()
    assert fit_coder(config, data, network) == config
    assert list(network.coder.weights) == [1, 1, 1, 1]
