"""docs/python.md: every code block runs, in order, in an empty folder; what they made is what the page says."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import anchorlab
from anchorlab.errors import SettingError
from tests.by_pycocotools import Scored, by_pycocotools

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> dict[str, Any]:
    """The names that the page's code leaves behind."""
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    folder = tmp_path_factory.mktemp("page")
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, PAGE.name, "exec"), names)
    return {**names, "folder": folder, "printed": printed.getvalue()}


def test_a_run_is_its_folder(page, monkeypatch):
    monkeypatch.chdir(page["folder"])
    run = page["run"]
    again = anchorlab.Run(run.folder)
    assert (again.metrics, again.status) == (run.metrics, "finished")
    assert again.metrics["AR_100"] == pytest.approx(run.curves["val/AR_100"][-1], abs=1e-6)
    assert run.config["anchor"]["ratios"] == [0.5, 1, 2]
    assert {"recall", "anchors", "proposals_epoch_001"} <= set(run.figures)
    assert "<img" in run._repr_html_()
    assert run.figures["recall"]._repr_html_().startswith('<img alt="recall"')
    assert page["network"].anchors.num_anchors == (3, 3, 3)


def test_progress_is_a_line_an_epoch(page):
    assert len(re.findall(r"^epoch 1/1 .*AR@100", page["printed"], flags=re.MULTILINE)) == 2


def test_their_own_trainer_scores(page):
    assert page["module"].recall.compute()["AR_100"] == pytest.approx(
        float(page["trainer"].callback_metrics["val/AR_100"])
    )


def test_comparison_ranks_the_runs(page):
    comparison = page["comparison"]
    best = max(page["run"].metrics["AR_100"], page["square"].metrics["AR_100"])
    assert [row["rank"] for row in comparison.table] == [1, 2]
    assert comparison.table[0]["AR_100"] == pytest.approx(best)
    assert comparison.answer in comparison._repr_html_().replace("&#x27;", "'")
    assert (page["folder"] / "comparison" / "comparison.html").is_file()


def test_the_error_is_the_sentence_of_the_command_line(page):
    (said,) = re.findall(r"print\(error\)  # (.*)", PAGE.read_text(encoding="utf-8"))
    assert page["printed"].splitlines()[-1] == said


def test_objects_show_themselves(page):
    assert "<td>32</td><td>3</td>" in page["anchors"]._repr_html_()
    assert repr(page["anchors"]).startswith("AnchorGrid(stride 8: 45 x 23, 32 x 32, 23 x 45; stride 16: ")
    assert repr(page["coverage"]) == "Coverage(0.000 of 3 boxes have an anchor of IoU >= 0.7)"
    assert "<td>all</td><td>3</td>" in page["coverage"]._repr_html_()
    assert "N=100" in page["found"]._repr_html_()


def test_coverage_is_that_of_every_anchor():
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, 150, (20, 2)), rng.uniform(5, 90, (20, 2))
    boxes = np.concatenate([corner, corner + side], axis=1)
    anchors = anchorlab.AnchorGrid(scale=4, ratios=[0.5, 1], strides=[8, 16])
    # 193 x 241 is padded to multiples of 16: 208 x 256, whose finer map has 26 x 32 cells
    every = anchors([(26, 32), (13, 16)], (208, 256), "cpu").boxes.double().numpy()
    low, high = np.maximum(boxes[:, None, :2], every[None, :, :2]), np.minimum(boxes[:, None, 2:], every[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(2)
    area = side.prod(1)[:, None] + (every[:, 2:] - every[:, :2]).prod(1)[None]
    best = (inter / (area - inter)).max(1)
    found = anchorlab.coverage([boxes[:12], np.zeros((0, 4)), boxes[12:]], (193, 241), anchors)
    np.testing.assert_allclose(found.best.numpy(), best, atol=1e-5)


def test_recall_is_that_of_pycocotools():
    rng = np.random.default_rng(1)
    images = []
    for wanted, count in ((4, 30), (0, 5), (6, 0)):
        corner = rng.uniform(0, 80, (wanted, 2))
        objects = np.concatenate([corner, corner + rng.uniform(8, 120, (wanted, 2))], axis=1)
        proposals = np.resize(objects, (count, 4)) + rng.normal(0, 4, (count, 4)) if wanted else np.ones((count, 4))
        proposals[:, 2:] = np.maximum(proposals[:, 2:], proposals[:, :2] + 1)
        area = (objects[:, 2:] - objects[:, :2]).prod(axis=1)
        images.append(Scored(proposals, rng.uniform(size=count), objects, area, np.arange(wanted) == 1))
    found = anchorlab.recall(
        [(image.boxes, torch.from_numpy(image.scores)) for image in images],
        [image.gt_boxes.tolist() for image in images],
        ignore=[image.gt_ignore for image in images],
        budgets=(5, 100),
    )
    assert dict(found) == pytest.approx(by_pycocotools(images, (5, 100)), abs=1e-9)
    best_first = [image.boxes[np.argsort(-image.scores)] for image in images]
    truth = [image.gt_boxes for image in images]
    scored = anchorlab.recall([(image.boxes, image.scores) for image in images], truth)
    assert anchorlab.recall(best_first, truth) == scored


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: anchorlab.compose("anchor.k=3,6"), "anchor.k=3,6 has several values"),
        (lambda: anchorlab.compose("hydra.run.dir=x"), "leave it out, and give folder="),
        (lambda: anchorlab.compose("backbone=tinny"), "did you mean backbone=tiny?"),
        (lambda: anchorlab.train("debug=look"), "debug.look trains nothing"),
        (lambda: anchorlab.Run("/nowhere"), "is not a run's folder"),
        (lambda: anchorlab.compare(["/nowhere"]), "names nothing"),
        (lambda: anchorlab.recall([], [np.zeros((0, 4))]), "0 images with proposals and 1 with truth"),
        (lambda: anchorlab.recall([np.zeros((2, 3))], [np.zeros((0, 4))]), "boxes are (n, 4)"),
        (lambda: anchorlab.recall([(np.zeros((2, 4)), [1.0])], [np.zeros((0, 4))]), "1 values for 2 boxes"),
        (
            lambda: anchorlab.coverage([np.zeros((1, 4))], [[9, 9], [9, 9]], anchorlab.AnchorGrid([9], strides=[8])),
            "give (height, width) of each of 1 images",
        ),
    ],
)
def test_errors_are_exceptions_of_one_sentence(call, sentence):
    with pytest.raises(ValueError) as error:  # noqa: PT011 the sentence is compared below
        call()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_setting_errors_are_known_by_their_class():
    with pytest.raises(SettingError):
        anchorlab.compose("anchor.ratio=[1]")
