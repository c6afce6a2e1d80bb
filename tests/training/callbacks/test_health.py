"""A training that learns nothing says so: by its figures, on the screen, in run.json and in a comparison."""

import json
import math

import pytest

from anchorlab.training.callbacks.health import warnings_of

HEALTHY = {"val/box_iou": 0.6, "val/anchor_iou": 0.4, "val/AR_1000": 0.3}
LARGE = ("data.reader.num_train=40", "trainer.epochs=8", "anchor.scale=12", "optimizer.lr=0.002", "hydra.run.dir=run")
BEYOND_RETURN = ("head.delta_std=2", "loss.delta_weight=0")
"""A start like that of features that are far from unit size, and the published loss."""


@pytest.mark.parametrize(
    ("changed", "kinds"),
    [
        ({}, set()),
        ({"val/box_iou": 0.2}, set()),
        ({"val/box_iou": 0.199}, {"boxes"}),
        ({"val/box_iou": math.nan, "val/anchor_iou": math.nan}, set()),  # a network of one's own may not know them
        ({"val/box_iou": 0.0, "val/anchor_iou": 0.0}, set()),  # no positive in the whole validation
        ({"val/AR_1000": 0.0}, {"nothing_found"}),
        ({"val/AR_1000": 0.0005}, set()),
        ({"val/AR_1000": -1.0}, set()),  # no object to find
        ({"val/AR_1000": 0.0, "val/box_iou": 0.0}, {"boxes", "nothing_found"}),
    ],
)
def test_warnings(changed: dict[str, float], kinds: set[str]) -> None:
    assert set(warnings_of(HEALTHY | changed)) == kinds


def test_no_figures_no_warnings() -> None:
    assert warnings_of({}) == {}


@pytest.mark.long
def test_anchors_far_too_large_are_learnt(small, train, tmp_path) -> None:
    done = train(*small, *LARGE)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert content["warnings"] == {}
    assert "boxes are not being learnt" not in done.stdout
    final = content["figures"]["final"]
    assert final["anchor_iou"] < 0.3  # they are too large
    assert final["box_iou"] > final["anchor_iou"]
    assert final["AR_100"] > 0.03


@pytest.mark.long
def test_boxes_that_died_are_said(small, train, tmp_path) -> None:
    done = train(*small, *LARGE, *BEYOND_RETURN)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(content["warnings"]) == {"boxes", "nothing_found"}
    said = done.stdout.splitlines()
    first = next(row for row, line in enumerate(said) if line.startswith("warning: boxes are not being learnt"))
    assert said[first + 2].startswith("epoch 1/8")  # at the first validation, and once
    assert "head.delta_std=0" in said[first]
    assert sum(line.startswith("warning: ") for line in said) == 2
    assert "warning   nothing is found: AR@1000 is 0.000" in done.stdout  # at the end
