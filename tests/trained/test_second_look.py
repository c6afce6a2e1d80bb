"""A run with a second look, through the commands: training, evaluation, export, explanation, start, hand-over."""

import copy
from pathlib import Path

import pytest
import torch

from anchorlab.analysis.funnel import best_by_stage, stage_names
from anchorlab.build import build_validation_data
from anchorlab.commands import train as training
from anchorlab.commands.evaluate import evaluate
from anchorlab.commands.explain import follow, in_words
from anchorlab.commands.export import (
    compare,
    one_of_batch,
    onnx_runner,
    program_runner,
    reference,
    save_onnx,
    save_program,
)
from anchorlab.errors import SettingError
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.rpn.proposals.tiered_nms import TieredNMSSelector
from anchorlab.runs.record import read_run
from anchorlab.trained.graph import exported_program
from anchorlab.trained.load import Trained, load_trained
from anchorlab.trained.start import of_network, start_from
from anchorlab.trained.torchvision import to_torchvision
from tests.commands.conftest import CONFIGS, SMALL, check_overrides, composed
from tests.rpn.test_network import BOXES, SIZES, predict
from tests.rpn.test_network import build as build_plain
from tests.rpn.test_refine import build, look, perturbed

TIERS = [(20, 0.7), (50, 0.8), (60, 0.5), (80, 0.85)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, synthetic_root) -> Path:
    """Of a run of two epochs with a second look of tiered NMS."""
    place = tmp_path_factory.mktemp("runs") / "refined"
    more = ["logger=csv", "callbacks.outcome.images=0", "preflight=none", "refine=roi", "proposals=tiered"]
    training.train(check_overrides("train", CONFIGS, [*SMALL, f"data.root={synthetic_root}", *more]), place)
    return place


@pytest.fixture(scope="module")
def trained(folder) -> Trained:
    return load_trained(folder)


def test_both_stages_are_logged_and_evaluation_finds_them_again(folder, tmp_path):
    logged = read_run(folder).final
    assert {"AR_100", "stage1_AR_100", "refine_score", "refine_box"} <= set(logged)
    asked = ("pictures=0", "outcome=4")
    (found,) = evaluate(composed("evaluate", f"run={folder}", *asked), tmp_path)
    own = {name: value for name, value in found.own.items() if name not in ("epoch", "step")}
    assert {name: found.metrics[name] for name in own} == own
    assert found.outcome is not None
    assert "second look" in found.outcome.funnel.stages


@pytest.mark.long
def test_a_short_training_finds_more_with_it_than_its_first_stage_alone(tmp_path):
    """128 steps on the built-in data; the same weights propose with the second look and without."""
    overrides = (
        *("data.reader.num_train=64", "data.reader.num_val=24", "data.reader.image_size=[96,128]"),
        *("data.reader.sizes=[16,60]", "data.long=128", "data.batch_size=8", "optimizer.lr=0.003"),
        *("trainer.epochs=16", "trainer.val_every=16", "trainer.precision=32", "trainer.log_every=8"),
        *("refine=roi", "proposals=tiered", "preflight=none", "callbacks.outcome.images=0", "logger=none"),
    )
    found = training.train(
        check_overrides("train", CONFIGS, [*SMALL, f"data.root={tmp_path / 'data'}", *overrides]), tmp_path / "run"
    )
    assert found["AR_10"] > found["stage1_AR_10"] + 0.005
    assert found["AR_100"] > found["stage1_AR_100"]
    assert found["AR_1000"] > found["stage1_AR_1000"]


@pytest.mark.long
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "selector",
    [
        ProposalSelector(pre_nms_top_n=100, post_nms_top_n=80, nms_iou=[0.7, 0.6, 0.5], min_size=3.0),
        TieredNMSSelector(TIERS, pre_nms_top_n=100, post_nms_top_n=80, vote_sigma=0.02),
    ],
)
def test_graphs_look_again_as_the_network_does(selector, batch, tmp_path):
    """At three sizes, one of which has fewer candidates than are looked at."""
    network = perturbed(build(refine=look(num=150), proposals=selector)).eval()
    program = exported_program(network, 1, batch)
    runners = {
        "model.pt2": one_of_batch(program_runner(save_program(program, tmp_path / "model.pt2")), batch),
        "model.onnx": one_of_batch(onnx_runner(save_onnx(program, tmp_path / "model.onnx"), 1), batch),
    }
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=generator)
        for size in ((96, 128), (150, 221), (200, 97))
    ]
    for check in compare(reference(network), runners, images, 1, batch):
        assert check.same == check.proposals == check.given, check
        assert check.proposals > 20


def test_explanation_says_where_boxes_are_looked_at_again(trained):
    record = build_validation_data(trained.config["data"]).val_records[0]
    steps = follow(trained, record, True, None, None, 20)
    assert any("A second look pools features inside the best boxes" in line for line in in_words(steps))
    assert len(steps.candidates) <= 2 * trained.network.refine.num


def test_funnel_has_the_second_look_between_the_top_and_nms():
    network = perturbed(build())
    assert stage_names(network, [10])[2:5] == ("top 1000 per level", "second look", "NMS 0.7")
    found = best_by_stage(network, predict(network), 0, BOXES[0], SIZES[0], [10])
    assert found.shape == (6, 2)
    assert (found[3:-1] >= found[4:]).all()


def test_torchvision_refuses_it_in_one_sentence(trained):
    with pytest.raises(SettingError, match=r"torchvision's RPN cannot express network RefinedRPN: it knows"):
        to_torchvision(trained)


def test_start_takes_the_second_look_where_both_have_it():
    donor, network = perturbed(build()), build()
    line = start_from(network, of_network(donor))
    assert "begins anew" not in line
    assert all(map(torch.equal, donor.refine.parameters(), network.refine.parameters()))
    before = copy.deepcopy(network.refine)
    assert "the second look begins anew" in start_from(network, of_network(build_plain()))
    assert "the second look begins anew" in start_from(network, of_network(build(refine=look(bins=3))))
    assert all(map(torch.equal, before.parameters(), network.refine.parameters()))
    plain = build_plain()
    start_from(plain, of_network(donor))
    assert type(plain) is RegionProposalNetwork
