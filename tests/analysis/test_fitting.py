"""Fitted anchors: better than what they start from, the same for the same boxes, and settings that a training takes."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from anchorlab.analysis import baselines, report
from anchorlab.analysis.coverage import cover
from anchorlab.analysis.fitting import AnchorFit
from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.cli.overrides import check_overrides
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner

CONFIGS = Path(__file__).parents[2] / "conf"
STRIDES = (8, 16, 32)
ASSIGNER = MaxIoUAssigner()


def boxes_of(sides: np.ndarray, rng: np.random.Generator, size: tuple[int, int] = (300, 400)) -> GroundTruth:
    """Boxes of given width and height (G, 2) at random places, ten an image."""
    corner = rng.random(sides.shape) * (np.array(size[::-1]) - sides)
    boxes = torch.from_numpy(np.concatenate((corner, corner + sides), axis=1).astype(np.float32))
    image = torch.arange(len(boxes)) // 10
    sizes = torch.tensor([size]).expand(int(image.max()) + 1, 2)
    return GroundTruth(boxes, image, sizes, sizes, torch.stack([-(-sizes // s) for s in STRIDES], dim=1))


@pytest.fixture(scope="module")
def spread() -> GroundTruth:
    rng = np.random.default_rng(0)
    size, root = np.exp(rng.uniform(2.5, 4.8, 600)), np.exp(rng.normal(0.3, 0.3, 600))
    return boxes_of(np.stack((size / root, size * root), axis=1), rng)


def share(truth: GroundTruth, anchors: AnchorGrid) -> float:
    return cover(truth, anchors, ASSIGNER).metrics["coverage"]


@pytest.mark.parametrize("form", ["free", "grid"])
def test_fit_covers_more_than_others_on_boxes_it_never_saw(spread, form):
    rng = np.random.default_rng(1)
    size, root = np.exp(rng.uniform(2.5, 4.8, 600)), np.exp(rng.normal(0.3, 0.3, 600))
    others = boxes_of(np.stack((size / root, size * root), axis=1), rng)
    fitted = AnchorFit(3, form, boxes=1500, strides=STRIDES)(spread, ASSIGNER)
    sides = (spread.boxes[:, 2:] - spread.boxes[:, :2]).double().numpy()
    means = baselines.split_by_area(baselines.iou_kmeans(sides, 9, rng), len(STRIDES))
    rivals = [baselines.torchvision_default(STRIDES), AnchorGrid(shapes=[m.tolist() for m in means], strides=STRIDES)]
    for rival in rivals:
        assert share(others, fitted.grid(STRIDES)) > share(others, rival) + 0.05


def test_fit_finds_planted_shapes():
    rng = np.random.default_rng(0)
    sides = np.array([[20.0, 44.0], [60.0, 33.0], [120.0, 130.0]])[rng.integers(3, size=300)]
    truth = boxes_of(sides * np.exp(rng.normal(0, 0.03, sides.shape)), rng)
    fitted = AnchorFit(1, boxes=1000, strides=STRIDES)(truth, ASSIGNER)
    assert np.array(fitted.settings["shapes"]) == pytest.approx(
        np.array([[[20, 44]], [[60, 33]], [[120, 130]]]), rel=0.1
    )


@pytest.mark.parametrize("form", ["free", "grid"])
@pytest.mark.parametrize("strides", [STRIDES, (16,)])
def test_same_boxes_give_the_same_anchors_with_k_on_every_level(spread, form, strides):
    grids = torch.stack([-(-spread.sizes // stride) for stride in strides], dim=1)
    truth = GroundTruth(spread.boxes, spread.image, spread.sizes, spread.padded, grids)
    found = [AnchorFit(2, form, boxes=200, strides=strides)(truth, ASSIGNER) for _ in range(2)]
    assert found[0].settings == found[1].settings
    grid = found[0].grid(strides)
    assert grid.num_anchors == (2,) * len(strides)
    for stride, shapes in zip(strides[1:-1], grid.shapes[1:-1], strict=True):
        size = shapes.prod(dim=1).sqrt()
        assert ((size >= 1.99 * stride) & (size <= 16.01 * stride)).all()


def test_one_box_is_enough_and_none_is_too_few():
    one = boxes_of(np.array([[30.0, 60.0]]), np.random.default_rng(0))
    assert share(one, AnchorFit(1, boxes=50, strides=STRIDES)(one, ASSIGNER).grid(STRIDES)) == 1.0
    with pytest.raises(ValueError, match="no boxes in the training split"):
        AnchorFit(1, strides=STRIDES)(one.part(slice(0)), ASSIGNER)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k": 0}, "k=0"),
        ({"k": None}, "k=null"),
        ({"form": "round"}, "form=round"),
        ({"size_range": [8, 2]}, r"size_range=\[8, 2\]"),
    ],
)
def test_settings_that_make_no_anchors_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        AnchorFit(**settings, strides=STRIDES)


def shapes_from(config: dict, strides: Sequence[int] = STRIDES) -> list[list[list[float]]]:
    group = {key: value for key, value in config["anchor"].items() if key != "_target_"}
    return [shapes.tolist() for shapes in AnchorGrid(**group, strides=strides).shapes]


@pytest.mark.parametrize("form", ["free", "grid"])
def test_override_and_file_give_the_anchors_that_were_fitted(spread, form, tmp_path):
    fitted = AnchorFit(2, form, offset=0.5, boxes=200, strides=STRIDES)(spread, ASSIGNER)
    wanted = [shapes.tolist() for shapes in fitted.grid(STRIDES).shapes]
    typed = shlex.split(report.override(fitted))
    assert shapes_from(check_overrides("train", CONFIGS, typed)) == wanted
    (tmp_path / "anchor").mkdir()
    text = report.config_file(fitted, "Fitted.")
    (tmp_path / "anchor" / "mine.yaml").write_text(text)
    assert yaml.safe_load(text)["k"] == 2
    assert shapes_from(check_overrides("train", CONFIGS, ["anchor=mine"], str(tmp_path))) == wanted


# ------------------------------------------------------------------------------------------------- what others do


@pytest.mark.parametrize("method", [baselines.iou_kmeans, baselines.yolo_kmeans, baselines.mean_iou_evolution])
def test_methods_find_two_kinds_of_boxes(method):
    rng = np.random.default_rng(0)
    kinds = np.array([[20.0, 50.0], [120.0, 60.0]])
    sides = kinds[np.arange(80) % 2] * np.exp(rng.normal(0, 0.02, (80, 2)))
    found = method(sides, 2, rng)
    assert found[found[:, 0].argsort()] == pytest.approx(kinds, rel=0.1)


def test_mean_iou_evolution_beats_k_means_on_what_it_maximises(spread):
    sides = (spread.boxes[:, 2:] - spread.boxes[:, :2]).double().numpy()[:200]
    evolved = baselines.mean_iou_evolution(sides, 2, np.random.default_rng(0))
    means = baselines.iou_kmeans(sides, 2, np.random.default_rng(0))
    mean_iou = [baselines.shape_iou(sides, shapes).max(axis=1).mean() for shapes in (evolved, means)]
    assert mean_iou[0] > mean_iou[1]


def test_shape_iou_and_dealing_by_area():
    assert baselines.shape_iou(np.array([[10.0, 20.0]]), np.array([[20.0, 10.0], [10.0, 20.0]])).tolist() == [
        [pytest.approx(100 / 300), 1.0]
    ]
    levels = baselines.split_by_area(np.array([[9.0, 9.0], [1.0, 1.0], [5.0, 5.0], [2.0, 2.0]]), 2)
    assert [level.tolist() for level in levels] == [[[1, 1], [2, 2]], [[5, 5], [9, 9]]]


def test_torchvision_default_is_that_of_its_detectors():
    grid = baselines.torchvision_default((4, 8, 16, 32, 64))
    assert [shapes[1].tolist() for shapes in grid.shapes] == [[s, s] for s in (32, 64, 128, 256, 512)]
    assert baselines.torchvision_default((16,)).num_anchors == (9,)
