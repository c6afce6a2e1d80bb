"""A run with `proposals=fit` keeps the thresholds of its last validation, and whatever reads the run has them."""

import pytest
import torch
import yaml

from anchorlab.commands.evaluate import evaluate
from anchorlab.commands.propose import propose
from anchorlab.commands.train import train as train_here
from anchorlab.config.identity import config_hash
from anchorlab.errors import SettingError
from anchorlab.rpn.proposals.tiered_nms import FittedTieredNMSSelector
from anchorlab.runs.record import read_run
from anchorlab.trained.load import load_trained
from anchorlab.training.callbacks import fit_tiers
from anchorlab.training.callbacks.fit_tiers import thresholds_on
from tests.commands.conftest import CONFIGS, check_overrides, composed
from tests.training.conftest import SMALL

QUICK = ("pictures=0", "outcome=0")
PROPOSALS = ("proposals.images=4", "proposals.tiers=[[10,0.3],[100,0.3]]")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    return trained(root, tmp_path_factory.mktemp("runs") / "fit")


def trained(root, folder, *overrides):
    more = ["logger=csv", "callbacks.outcome.images=0", "preflight=none", "proposals=fit", *PROPOSALS, *overrides]
    train_here(check_overrides("train", CONFIGS, [*SMALL, f"data.root={root}", *more]), folder)
    return folder


def test_thresholds_lie_in_config_and_checkpoints_and_are_no_other_experiment(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    thresholds = config["proposals"]["thresholds"]
    assert len(thresholds) == 2
    assert config_hash(config) == read_run(run).content["config_hash"]
    config["proposals"]["thresholds"] = None
    assert config_hash(config) == read_run(run).content["config_hash"]
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["config"]["proposals"]["thresholds"] == thresholds
    selector = load_trained(run).network.selector
    assert isinstance(selector, FittedTieredNMSSelector)
    assert selector.is_fitted
    assert [iou for _, iou in selector.tiers] == thresholds


def test_evaluation_with_them_gives_the_run_s_figures(run, tmp_path):
    (found,) = evaluate(composed("evaluate", *QUICK, f"run={run}"), tmp_path)
    assert {key: value for key, value in found.metrics.items() if key in found.own} == {
        key: value for key, value in found.own.items() if key in found.metrics
    }


def test_evaluation_finds_them_for_a_run_without(run, tmp_path):
    with_others = evaluate(composed("evaluate", *QUICK, f"run={run}", "proposals=fit", *PROPOSALS), tmp_path)
    found = yaml.safe_load((tmp_path / "config.yaml").read_text())["proposals"]["thresholds"]
    assert found == yaml.safe_load((run / "config.yaml").read_text())["proposals"]["thresholds"]
    assert with_others[0].metrics["AR_100"] == read_run(run).final["AR_100"]
    with pytest.raises(SettingError, match=r"proposals=fit has no thresholds yet: evaluate\.py run="):
        propose(composed("propose", f"run={run}", "proposals=fit", "source=nothing"))


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (("trainer.epochs=3",), [3, 9]),
        (("trainer.epochs=9", "trainer.max_steps=6"), [3, 6]),
        (("trainer.epochs=9", "trainer.max_steps=7"), [3, 7]),
    ],
)
def test_they_are_found_for_the_first_validation_and_the_last(overrides, steps, root, tmp_path, monkeypatch, capsys):
    found_at = []

    def noting(module, data):
        found_at.append(module.trainer.global_step)
        return thresholds_on(module, data)

    monkeypatch.setattr(fit_tiers, "thresholds_on", noting)
    trained(root, tmp_path / "run", *overrides)
    assert found_at == steps
    assert "IoU between proposals at most, found on training images: 0." in capsys.readouterr().out


def test_a_run_that_stops_early_says_whose_thresholds_it_has(root, tmp_path, capsys):
    early = ["trainer.epochs=9", "callbacks=early_stopping", "callbacks.early_stopping.patience=1"]
    run = trained(root, tmp_path / "run", *early, "callbacks.early_stopping.min_delta=0.9")
    assert read_run(run).final["epoch"] == 2
    assert f"found at the first validation; with the weights of the end: evaluate.py run={run} proposals=fit" in (
        capsys.readouterr().out
    )
