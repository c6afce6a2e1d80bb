"""A probe's verdict, kept and found again: for the same network and boxes, with any anchors, and for nothing else."""

import dataclasses

import pytest
import torch

from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.cli.overrides import check_overrides
from anchorlab.config.identity import anchor_hash
from anchorlab.installation import CONFIGS
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.training import known_probes
from anchorlab.training.known_probes import KnownProbe

SMALL = AnchorGrid(strides=[8], scale=2, ratios=[1])
LARGE = AnchorGrid(strides=[8], scale=8, ratios=[1])
PROBE = KnownProbe(
    "2026-01-02", "take anchor.scale=2", {anchor_hash(SMALL.shapes): 0.5, anchor_hash(LARGE.shapes): 0.375}
)
TRUTH = GroundTruth(
    boxes=torch.tensor([[0.0, 0.0, 10.0, 10.0]]),
    image=torch.tensor([0]),
    sizes=torch.tensor([[32, 32]]),
    padded=torch.tensor([[32, 32]]),
    grids=torch.tensor([[[4, 4]]]),
)


def config(*overrides: str) -> dict:
    return check_overrides("train", CONFIGS, overrides)


def test_it_holds_for_any_anchors_and_for_what_follows_from_them(tmp_path):
    known_probes.keep(str(tmp_path / "new"), config("anchor.scale=2"), TRUTH, PROBE)
    trained = config("anchor.scale=8", "trainer.epochs=3", "optimizer.lr=0.1", "refine=roi", "seed=5")
    trained["coder"] = {**trained["coder"], "means": [0, 0, 1, 1], "weights": [2, 2, 2, 2]}
    assert known_probes.find(str(tmp_path / "new"), trained, TRUTH) == PROBE


@pytest.mark.parametrize("override", ["assigner=max_iou", "loss=l1", "backbone.channels=32", "head.convs=2"])
def test_it_does_not_hold_for_another_network(override, tmp_path):
    known_probes.keep(str(tmp_path), config(), TRUTH, PROBE)
    assert known_probes.find(str(tmp_path), config(override), TRUTH) is None


@pytest.mark.parametrize("part", ["boxes", "image", "sizes"])
def test_it_does_not_hold_for_other_boxes(part, tmp_path):
    known_probes.keep(str(tmp_path), config(), TRUTH, PROBE)
    moved = dataclasses.replace(TRUTH, **{part: getattr(TRUTH, part) + 1})
    assert known_probes.find(str(tmp_path), config(), moved) is None


def test_the_newest_counts_and_null_keeps_and_finds_nothing(tmp_path):
    newer = dataclasses.replace(PROBE, day="2026-02-03")
    for probe in (PROBE, newer):
        known_probes.keep(str(tmp_path), config(), TRUTH, probe)
    assert known_probes.find(str(tmp_path), config(), TRUTH) == newer
    known_probes.keep(None, config(), TRUTH, PROBE)
    assert known_probes.find(None, config(), TRUTH) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"expected": {}}', '{"day": 1, "verdict": 2, "expected": [3]}'])
def test_a_damaged_file_is_as_none(content, tmp_path):
    known_probes.keep(str(tmp_path), config(), TRUTH, PROBE)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    assert known_probes.find(str(tmp_path), config(), TRUTH) is None


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    known_probes.keep(str(tmp_path / "file" / "probes"), config(), TRUTH, PROBE)
    assert known_probes.find(str(tmp_path / "file" / "probes"), config(), TRUTH) is None


def test_the_line_says_what_was_expected_of_the_runs_own_anchors():
    assert PROBE.line(SMALL).endswith("(2 sets of anchors, 2026-01-02); the anchors above are expected best")
    assert PROBE.line(LARGE).endswith("the anchors above are expected 0.125 behind the best")
    assert PROBE.line(AnchorGrid(strides=[8], scale=4, ratios=[1])).endswith("were not among them")
