"""Every recipe of conf/experiment composes and trains one step (on small images, without downloaded weights)."""

import re
from pathlib import Path

import pytest

from anchorlab.cli.overrides import check_overrides
from anchorlab.commands.train import train

CONFIGS = Path(__file__).parents[2] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


@pytest.mark.long
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_trains_one_step(experiment, small, tmp_path, real_data):
    overrides = [f"experiment={experiment}", "debug=one_step", "logger=none", "trainer.threads=1"]
    if "real-images" in (CONFIGS / "experiment" / f"{experiment}.yaml").read_text():
        root = real_data / ("bccd/BCCD" if "bccd" in experiment else "voc07")
        overrides += [f"data.root={root}", "data.long=256", "data.on_error=skip"]
    else:
        kept = ("data.reader.", "data.root=")
        overrides += [item for item in small if item.startswith(kept)]
        # The anchors of these recipes are meant for images of 600 px and more: larger than twice this input.
        overrides += ["data.short=null", "data.long=256"]
        if "weights" in check_overrides("train", CONFIGS, overrides)["backbone"]:
            overrides.append("backbone.weights=none")
    figures = train(check_overrides("train", CONFIGS, overrides), tmp_path)
    assert 0 <= figures["recall_1000"] <= 1


COMBINATIONS = [
    "assigner=atss loss=giou quality=iou proposals=soft_nms proposals.vote_sigma=0.01",
    "assigner=centre_region loss=diou quality=centerness sampler=iou_balanced proposals=tiered",
    "sampler=all objectness=focal head.prior=0.01 loss=ciou loss.divisor=positives proposals.nms_iou=[0.7,0.7,0.6]",
    "sampler=all objectness=varifocal head.prior=0.01 loss=iou loss.divisor=positives quality=iou",
    "objectness=quality_focal quality=iou quality.background=16 quality.score=quality",
    "cascade=two_stage assigner=max_iou anchor.ratios=[1] head.convs=0 loss=iou quality=iou",
    "refine=roi quality=iou proposals=tiered",
]


@pytest.mark.parametrize("switches", COMBINATIONS)
def test_every_switch_of_a_recipe_trains_one_step(switches, small, tmp_path):
    """The built-in data; every choice of the groups that recipes are made of occurs once."""
    overrides = [*small, *switches.split(), "debug=one_step", "logger=none"]
    figures = train(check_overrides("train", CONFIGS, overrides), tmp_path)
    assert 0 <= figures["recall_1000"] <= 1


def test_header_of_each_experiment_says_question_and_command():
    for path in (CONFIGS / "experiment").glob("*-*.yaml"):
        lines = [line for line in path.read_text().splitlines() if line.startswith("#")]
        text = "\n".join(lines)
        assert "@package _global_" in text, path
        assert re.search(rf"python train.py (-m )?experiment={path.stem}\b", text), path
