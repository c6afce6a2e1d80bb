"""A run's folder: written whole, read back as it was, and its hashes change with what changes the result."""

import copy
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anchorlab.config.identity import anchor_hash, config_hash
from anchorlab.runs import environment, files
from anchorlab.runs.record import RunRecord, read_run

CONFIG = {
    "seed": 0,
    "anchor": {"ratios": [0.5, 1, 2], "sizes": None, "k": None},
    "data": {"root": "/data/VOC2007", "workers": 2, "batch_size": 8, "reader": {"_target_": "VocReader"}},
    "trainer": {"epochs": 6, "devices": 1},
    "callbacks": {"pictures": {"_target_": "anchorlab.training.Pictures", "every": 1}},
    "logger": {"mode": "auto"},
    "optimizer": {"lr": 1.0, "schedules": [{"warmup": 1.0}]},
}


def changed(key: str, value) -> dict:
    config = copy.deepcopy(CONFIG)
    *places, last = key.split(".")
    group = config
    for place in places:
        group = group.setdefault(place, {})
    group[last] = value
    return config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("data.workers", 0),
        ("data.root", "/elsewhere/VOC2007/"),
        ("trainer.devices", 4),
        ("callbacks.pictures.every", 5),
        ("logger", None),
        ("debug.look", 3),
        ("sweep", {"rungs": [1, 3]}),
        ("optimizer.lr", 1),
        ("optimizer.schedules", [{"warmup": 1}]),
    ],
)
def test_what_changes_no_result_is_the_same_experiment(key, value):
    assert config_hash(changed(key, value)) == config_hash(CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("anchor.ratios", [1]),
        ("anchor.ratios", [2, 1, 0.5]),
        ("anchor.k", 0),
        ("data.root", "/data/BCCD"),
        ("data.batch_size", 4),
        ("data.reader._target_", "CocoReader"),
        ("data.reader.seed", 1),
        ("trainer.epochs", 12),
        ("callbacks.ema", {"decay": 0.998}),
        ("optimizer.lr", True),
        ("seeds", 1),
    ],
)
def test_what_changes_the_result_is_another_experiment(key, value):
    assert config_hash(changed(key, value)) != config_hash(CONFIG)


def test_the_order_of_keys_does_not_count():
    assert config_hash(dict(reversed(CONFIG.items()))) == config_hash(CONFIG)


@given(st.permutations(range(3)))
def test_anchors_are_known_by_their_shapes_whatever_their_order_and_type(order):
    shapes = [[[16.0, 8.0], [8.0, 16.0], [12.0, 12.0]], [[32.0, 32.0]]]
    reordered = [torch.tensor(shapes[0])[list(order)], np.array(shapes[1], dtype=np.float32)]
    assert anchor_hash(reordered) == anchor_hash(shapes)
    assert anchor_hash(shapes) != anchor_hash(shapes[::-1])
    assert anchor_hash(shapes) != anchor_hash([[[16.01, 8.0], [8.0, 16.0], [12.0, 12.0]], [[32.0, 32.0]]])


def started(folder: Path) -> RunRecord:
    record = RunRecord(folder)
    record.start(CONFIG, seed=0, shapes=[[[16, 8], [8, 16]]], devices=["Fast GPU"])
    return record


def test_a_run_is_read_as_it_was_written(tmp_path):
    record = started(tmp_path / "run")
    record.add(axes={"k": 3, "coverage": np.float32(0.5)}, timings={"seconds": 1.5})
    record.add(final={"AR_100": 0.25, "AR_s_100": float("nan")}, best={"AR_100": 0.5})
    record.finish()
    run = read_run(tmp_path / "run")
    assert (run.id, run.status, run.reason, run.seed) == (record.id, "finished", None, 0)
    assert (run.config, run.axes, run.timings) == (CONFIG, {"k": 3, "coverage": 0.5}, {"seconds": 1.5})
    assert (run.final, run.best) == ({"AR_100": 0.25, "AR_s_100": None}, {"AR_100": 0.5})
    assert run.config_hash == config_hash(CONFIG)
    assert run.anchor_hash == anchor_hash([[[8, 16], [16, 8]]])
    assert run.content["machine"]["devices"] == ["Fast GPU"]
    assert run.content["versions"]["numpy"] == np.__version__
    assert (run.metrics(), run.recall()) == ({}, None)


def test_a_running_and_a_failed_run_are_read(tmp_path):
    record = started(tmp_path)
    assert read_run(tmp_path).status == "running"
    record.fail("the loss of images [3, 7] is not finite")
    assert read_run(tmp_path).reason == "the loss of images [3, 7] is not finite"


def test_a_resumed_run_keeps_its_id_and_its_figures(tmp_path):
    first = started(tmp_path)
    first.add(best={"AR_100": 0.5}, axes={"k": 3})
    first.fail("killed")
    again = started(tmp_path)
    run = read_run(tmp_path)
    assert (run.id, run.status, run.reason, run.best) == (first.id, "running", None, {"AR_100": 0.5})
    assert run.content["resumed"] == 1
    assert again.id == first.id


def test_an_agent_of_a_wandb_sweep_names_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "given123")
    assert started(tmp_path / "alone").id != "given123"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    assert started(tmp_path / "agent").id == "given123"


def test_recall_arrays_are_read_with_their_image_ids(tmp_path):
    record = RunRecord(tmp_path)
    record.start(CONFIG)
    arrays = {
        "index": np.arange(2),
        "num_boxes": np.array([1, 2]),
        "rank": np.zeros((3, 10, 2), np.int32),
        "counted": np.ones((3, 2), bool),
        "budgets": np.array([10, 100]),
        "thresholds": np.linspace(0.5, 0.95, 10),
        "areas": np.array(["all", "s"]),
    }
    record.write_recall(arrays, image_ids=[17, "000005"])
    saved = read_run(tmp_path).recall()
    assert saved is not None
    assert saved["image_ids"].tolist() == ["17", "000005"]
    for name, values in arrays.items():
        np.testing.assert_array_equal(saved[name], values)


def test_problems_are_listed_only_where_there_are_any(tmp_path):
    record = RunRecord(tmp_path)
    record.write_problems([])
    assert not (tmp_path / "problems.txt").exists()
    record.write_problems(["a.xml: box 3 has no area", ValueError("b.jpg is missing")])
    assert (tmp_path / "problems.txt").read_text() == "a.xml: box 3 has no area\nb.jpg is missing\n"


def test_a_run_of_another_schema(tmp_path):
    (tmp_path / "run.json").write_text('{"figures": null}')
    old = read_run(tmp_path)
    assert (old.id, old.status, old.final, old.config) == (tmp_path.name, "running", {}, {})
    (tmp_path / "run.json").write_text('{"schema_version": 99}')
    with pytest.raises(ValueError, match=r"run\.json has schema version 99"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "{"),
        ("run.json", "[]"),
        ("run.json", b"\xff"),
        ("config.yaml", "a: [1"),
        ("config.yaml", "[1]"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_sentence(tmp_path, name, content):
    started(tmp_path)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"{name} cannot be read") as caught:
        read_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_broken_archive_and_a_folder_without_a_run_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run\.json"):
        read_run(tmp_path)
    started(tmp_path)
    (tmp_path / "recall.npz").write_bytes(b"PK not really")
    with pytest.raises(ValueError, match=r"recall\.npz cannot be read"):
        read_run(tmp_path).recall()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    files.write_whole(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "disk full")))
    with pytest.raises(OSError, match=r"disk full: .*run\.json"):
        files.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_run_json_is_strict_json(tmp_path):
    record = started(tmp_path)
    record.add(final={"loss": float("inf")}, timings={"folder": tmp_path})
    text = (tmp_path / "run.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["timings"]["folder"] == str(tmp_path)


def test_the_commit_is_that_of_our_own_code_only(tmp_path, monkeypatch):
    head, dirty = environment.commit()
    assert (head is None) == (dirty is None)
    assert head is None or len(head) == 40
    installed = tmp_path / "site-packages" / "environment.py"
    installed.parent.mkdir()
    monkeypatch.setattr(environment, "__file__", str(installed))
    assert environment.commit() == (None, None)
