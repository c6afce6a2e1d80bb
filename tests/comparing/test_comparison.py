"""Runs in, tables out: seeds together, other data apart, and nothing about a run's scores that the run did not say."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from anchorlab.cli.overrides import check_overrides
from anchorlab.comparing.comparison import Comparison, Question, compare, run_names, split_terms, telling_keys
from anchorlab.comparing.labels import choices_of
from anchorlab.comparing.page import as_page
from anchorlab.comparing.report import answer, as_csv, as_markdown, on_screen
from anchorlab.comparing.scores import read_runs
from anchorlab.comparing.statistics import Bootstrap
from anchorlab.config.moved import with_old_names
from anchorlab.errors import SettingError
from anchorlab.runs.record import RunRecord, read_run
from tests.comparing.material import config, write_run

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>alert(1)</script>"
QUICK = Bootstrap(resamples=300)


def compared(*folders: Path, **question) -> Comparison:
    runs, problems = read_runs([str(folder) for folder in folders])
    return compare(runs, Question(bootstrap=QUICK, **question), problems)


def screen(comparison: Comparison, rows: int = 30) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(on_screen(comparison, rows))
    return console.export_text()


# --------------------------------------------------------------------------------------- grouping and ranking


def test_seeds_stand_together_and_the_best_first(sweep):
    (table,) = compared(sweep).tables
    assert [entry.label for entry in table.entries] == [
        "ratios=[0.5,1,2], k=12",
        "ratios=[0.5,1,2], k=9",
        "ratios=[0.5,1,2], k=6",
        "ratios=[0.5,1,2], k=3",
        "ratios=[1], k=3",
        "ratios=[0.5,1,2], k=15",
    ]
    assert [entry.seeds for entry in table.entries] == [(0,), (0, 1, 2), (0, 1, 2), (0, 1, 2), (0, 1, 2), (0,)]
    scores = [entry.metric("AR_100").mean for entry in table.entries]
    assert scores == sorted(scores, reverse=True)


def test_figures_are_those_of_the_runs(sweep):
    (table,) = compared(sweep, metric="AR_m_300").tables
    for entry in table.entries:
        finals = [run.final for run in entry.runs]
        for key, value in entry.metrics.items():
            assert value.mean == pytest.approx(np.mean([final[key] for final in finals]), abs=1e-12)
            assert value.n == len(finals)
        spread = np.std([final["AR_100"] for final in finals], ddof=1) if len(finals) > 1 else np.nan
        assert entry.metrics["AR_100"].sd == pytest.approx(spread, nan_ok=True)


def test_a_metric_at_an_odd_number_of_proposals(sweep):
    (table,) = compared(sweep, metric="recall_7").tables
    recall = table.entries[0].runs[0].recall()
    assert recall is not None
    assert table.entries[0].metric("recall_7").mean == pytest.approx((recall["rank"][:, 0, 0] < 7).mean())


def test_runs_of_any_status_are_read(sweep):
    comparison = compared(sweep)
    assert [entry.status for entry in comparison.tables[0].entries].count("running") == 1
    (lost,) = comparison.unscored
    assert (lost.status, lost.runs[0].final) == ("failed", {})
    assert any("1 of the 14 runs with scores did not finish" in note for note in comparison.notes)


def test_a_finished_and_a_broken_run_of_one_setting_are_no_seeds_of_each_other(tmp_path):
    write_run(tmp_path / "a", config(seed=0))
    write_run(tmp_path / "b", config(seed=1), status="failed")
    (table,) = compared(tmp_path).tables
    assert sorted((entry.status, len(entry.seeds)) for entry in table.entries) == [("failed", 1), ("finished", 1)]


def write_twice(folder: Path) -> None:
    """The same settings and seed in `first` and, a year later, in `again`."""
    for name, year in (("first", 2025), ("again", 2026)):
        record = write_run(folder / name, config(seed=0)) / "run.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"created": f"{year}-01-01T00:00:00+00:00"}))


def test_a_repeat_is_no_second_seed(tmp_path):
    write_twice(tmp_path)
    comparison = compared(tmp_path)
    assert comparison.tables[0].entries[0].seeds == (0,)
    (note,) = (note for note in comparison.notes if "left out" in note)
    assert note.startswith(f"{tmp_path / 'first'} has the settings and the seed of a newer run, {tmp_path / 'again'}")


def test_a_baseline_that_is_left_out_as_a_repeat_stands_for_the_newer_run(tmp_path):
    write_twice(tmp_path)
    write_run(tmp_path / "other", config(anchor__scale=4))
    (table,) = compared(tmp_path, baseline=str(tmp_path / "first")).tables
    assert table.chosen
    assert table.baseline is not None
    assert table.entries[table.baseline].runs[0].folder == tmp_path / "again"


def test_equal_runs_cannot_be_told_apart(tmp_path):
    write_run(tmp_path / "a", config(anchor__scale=8))
    write_run(tmp_path / "b", config(anchor__scale=8, trainer__epochs=4))
    (table,) = compared(tmp_path).tables
    difference = table.entries[1].difference
    assert difference is not None
    assert (difference.estimate, difference.better, table.entries[1].verdict) == (0, 0.5, "cannot tell")
    assert "it cannot be told from the other" in answer(compared(tmp_path))


# -------------------------------------------------------------------------------------------------- other data


def test_other_images_are_never_compared_silently(tmp_path):
    write_run(tmp_path / "a", config(), data=0)
    write_run(tmp_path / "b", config(anchor__k=6), data=1)
    comparison = compared(tmp_path)
    assert [len(table.entries) for table in comparison.tables] == [1, 1]
    assert len({table.data for table in comparison.tables}) == 2
    assert all(entry.difference is None for table in comparison.tables for entry in table.entries)
    assert any("2 different sets of images or boxes (0 image ids in common)" in note for note in comparison.notes)
    with pytest.raises(SettingError, match="share no image"):
        compared(tmp_path, images="common")


def test_missing_images_keep_runs_apart_until_one_asks_for_the_common_ones(tmp_path):
    write_run(tmp_path / "a", config(), images=30)
    write_run(tmp_path / "b", config(anchor__k=6), miss=0.2, images=25)
    apart = compared(tmp_path)
    assert [len(table.entries) for table in apart.tables] == [1, 1]
    assert any("images=common compares on them" in note for note in apart.notes)
    together = compared(tmp_path, images="common")
    (table,) = together.tables
    assert len(table.images) == 25
    assert any("of the 25 images that all runs share" in note for note in together.notes)
    whole = next(table.entries[0] for table in apart.tables if len(table.images) == 25)
    assert table.entries[0].metric("AR_100").mean == whole.metric("AR_100").mean


def test_the_same_images_with_other_boxes_are_other_data(tmp_path):
    write_run(tmp_path / "a", config(), data=0)
    arrays = read_run(write_run(tmp_path / "b", config(anchor__k=6), data=0)).recall()
    assert arrays is not None
    arrays["counted"][0] = False
    RunRecord(tmp_path / "b").write_recall(
        {name: value for name, value in arrays.items() if name != "image_ids"}, arrays["image_ids"].tolist()
    )
    assert len(compared(tmp_path).tables) == 2
    (table,) = compared(tmp_path, images="common").tables
    assert len(table.images) == 39


def test_images_held_out_of_training_are_not_called_val(tmp_path):
    write_run(tmp_path / "a", config(data__holdout=0.2))
    (table,) = compared(tmp_path).tables
    assert table.data == "cells, held out of train"


def test_the_order_of_the_images_does_not_matter(tmp_path):
    write_run(tmp_path / "a", config(), images=6)
    arrays = read_run(write_run(tmp_path / "b", config(anchor__k=6), images=6)).recall()
    assert arrays is not None
    order = np.array([3, 0, 5, 1, 4, 2])
    rows_of = np.split(np.arange(len(arrays["rank"])), np.cumsum(arrays["num_boxes"])[:-1])
    rows = np.concatenate([rows_of[image] for image in order])
    shuffled = arrays | {name: arrays[name][rows] for name in ("rank", "counted")}
    shuffled |= {name: arrays[name][order] for name in ("num_boxes", "image_ids")}
    ids = shuffled.pop("image_ids").tolist()
    RunRecord(tmp_path / "b").write_recall(shuffled, ids)
    (table,) = compared(tmp_path).tables
    assert len(table.entries) == 2


def test_one_image_is_no_evidence(tmp_path):
    write_run(tmp_path / "a", config(), images=1, miss=0.1)
    write_run(tmp_path / "b", config(anchor__k=6), images=1, miss=0.9)
    (table,) = compared(tmp_path).tables
    assert table.entries[1].verdict == "cannot tell"
    assert any("only 1 image with boxes" in note for note in table.notes)
    assert "[?, ?]" in screen(compared(tmp_path))


# --------------------------------------------------------------------------------------------------- baselines


@pytest.mark.parametrize(
    "asked",
    ["ratios=[1]", "anchor.ratios=[1],anchor.k=3", "k=3,ratios=[1]", "{sweep}/1", "{id}", "{name}"],
)
def test_a_baseline_is_a_run_or_a_filter(sweep, asked):
    run = read_run(sweep / "1")
    asked = asked.format(sweep=sweep, id=run.id, name=f"{sweep.name}/1")
    (table,) = compared(sweep, baseline=asked).tables
    assert table.baseline is not None
    assert table.entries[table.baseline].settings["anchor.ratios"] == [1]
    assert (table.chosen, table.entries[table.baseline].verdict) == (True, "baseline")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("anchor.k=3", "baseline=anchor.k=3 fits 2 rows"),
        ("anchor.k=4", "baseline=anchor.k=4 is no run with scores: there are"),
        (HOSTILE[:-1], f"did you mean {HOSTILE}"),
    ],
)
def test_a_wrong_baseline_is_one_sentence(sweep, asked, message):
    with pytest.raises(SettingError) as caught:
        compared(sweep, baseline=asked)
    assert message in str(caught.value)


def test_a_choice_is_named_and_asked_for_as_it_was_typed(tmp_path):
    for choice in ("assigner=max_iou", "assigner=atss", "quality=iou"):
        settings = check_overrides("train", ROOT / "conf", ["quality=none", choice, "loss=smooth_l1"])
        write_run(tmp_path / choice, {**settings, "anchor": config()["anchor"]})
    write_run(tmp_path / "own", {**settings, "anchor": config()["anchor"], "quality": {"_target_": "mine.Quality"}})
    (table,) = compared(tmp_path, baseline="assigner=max_iou", choices=choices_of(ROOT / "conf")).tables
    labels = {entry.runs[0].folder.name: entry.label for entry in table.entries}
    assert "assigner=max_iou, quality=none" in labels["assigner=max_iou"]
    assert "assigner=atss" in labels["assigner=atss"]
    assert "quality=iou" in labels["quality=iou"]
    assert "quality=mine.Quality" in labels["own"]
    assert [entry.runs[0].folder.name for entry in table.entries if entry.verdict == "baseline"] == ["assigner=max_iou"]


def fitted(folder: Path, choice: str, anchor: Mapping[str, Any], *typed: str) -> None:
    """A run whose `anchor` group is what it worked out, as a training leaves it; `choice` is what it was asked for."""
    write_run(folder, config(anchor={"_target_": "anchorlab.rpn.AnchorGrid", "offset": 0} | dict(anchor)))
    content = json.loads((folder / "run.json").read_text())
    content |= {"choices": {"anchor": choice}, "overrides": [f"anchor={choice}", *typed]}
    (folder / "run.json").write_text(json.dumps(content))


def test_fitted_anchors_are_named_by_the_words_that_asked_for_them(tmp_path):
    """The config of a run holds what the fit found: widths and heights, which nobody typed."""
    for k in (1, 3):
        found = {"k": k, "scale": None, "shapes": [[[10.5 * k, 20.25]] * k]}
        fitted(tmp_path / f"fit {k}", "fit", found, *(["anchor.k=1"] if k == 1 else []))
    fitted(tmp_path / "grid", "fit", {"k": 3, "sizes": [[31.5]], "ratios": [0.4, 1, 2.5]}, "anchor.form=grid")
    fitted(tmp_path / "fpn", "fpn", {"k": 3, "scale": 8, "shapes": None})
    (table,) = compared(tmp_path, baseline="anchor=fit,k=1", choices=choices_of(ROOT / "conf")).tables
    assert {entry.runs[0].folder.name: entry.label for entry in table.entries} == {
        "fit 1": "anchor=fit, k=1, form=free",
        "fit 3": "anchor=fit, k=3, form=free",
        "grid": "anchor=fit, k=3, form=grid",
        "fpn": "anchor=fpn, k=3, form=null",
    }
    assert [entry.runs[0].folder.name for entry in table.entries if entry.verdict == "baseline"] == ["fit 1"]


def test_fits_that_the_same_words_asked_for_are_told_apart_by_what_they_found(tmp_path):
    for at in (1, 2):
        fitted(tmp_path / str(at), "fit", {"k": 1, "shapes": [[[10 * at, 20]]]}, "anchor.k=1")
    (table,) = compared(tmp_path, choices=choices_of(ROOT / "conf")).tables
    assert {entry.label for entry in table.entries} == {"shapes=[[[10,20]]]", "shapes=[[[20,20]]]"}


def test_every_choice_that_stands_for_a_class_brings_it_in():
    known = choices_of(ROOT / "conf")
    assert known["loss", "anchorlab.rpn.losses.GIoULoss"] == "giou"  # under the name that settings_that_count gives it
    assert known["cascade", None] == "none"
    for (group, target), choice in known.items():
        contents = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "conf" / group).glob("*.yaml")}
        targets = {
            stem: with_old_names(content).get("_target_", "none of its own") for stem, content in contents.items()
        }
        assert [stem for stem, found in targets.items() if found == target] == [choice], group


def test_a_table_without_the_baseline_tests_nothing(tmp_path):
    write_run(tmp_path / "a", config(), data=0)
    write_run(tmp_path / "b", config(anchor__k=6), data=0)
    write_run(tmp_path / "c", config(anchor__k=6), data=1)
    tables = compared(tmp_path, baseline=str(tmp_path / "a")).tables
    assert [table.baseline is None for table in tables] == [False, True]
    assert "nothing is tested" in tables[1].notes[0]


def test_without_a_baseline_the_leader_is_corrected_for_all_pairs(sweep):
    (looked,) = compared(sweep).tables
    (chosen,) = compared(sweep, baseline=looked.entries[0].runs[0].id).tables
    pairs = [(one, other) for one, other in zip(looked.entries, chosen.entries, strict=True) if one.p_holm is not None]
    assert all(one.difference == other.difference for one, other in pairs)
    assert all(one.p_holm > other.p_holm for one, other in pairs if one.p_holm and other.p_holm and one.p_holm < 1)
    assert any("all 15 pairs" in note for note in looked.notes)


def test_filters_are_cut_outside_of_brackets():
    assert split_terms("a=[1,2], b={x:1,y:2},c=3") == ["a=[1,2]", "b={x:1,y:2}", "c=3"]


# ----------------------------------------------------------------------------------------------------- reading


def test_roots_globs_and_runs_are_read_once_each(sweep):
    patterns = [str(sweep), f"{sweep}/*", f"{sweep}/1", str(sweep / "2" / "run.json"), f"{sweep.parent}/**/3"]
    runs, problems = read_runs(patterns)
    assert [run.folder.name for run in runs] == [str(number) for number in range(15)]
    assert problems == []


def test_what_lies_in_a_runs_folder_belongs_to_it(tmp_path):
    write_run(tmp_path / "a", config(), images=2)
    write_run(tmp_path / "a" / "evaluations" / "test", config(), images=2)
    assert len(read_runs(str(tmp_path))[0]) == 1


def test_a_broken_run_is_named_and_the_others_go_on(tmp_path):
    write_run(tmp_path / "good", config(), images=2)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    write_run(tmp_path / "torn", config(anchor__k=6), images=2)
    (tmp_path / "torn" / "recall.npz").write_bytes(b"PK no archive")
    comparison = compared(tmp_path)
    assert len(comparison.tables[0].entries) == 1
    assert [entry.names for entry in comparison.unscored] == [(f"{tmp_path.name}/torn",)]
    assert any(note.startswith("left out: ") and "bad/run.json cannot be read" in note for note in comparison.notes)
    (why,) = comparison.unscored[0].unscored
    assert "torn/recall.npz cannot be read" in why
    assert "recall.npz cannot be read" in " ".join(screen(comparison).split())
    assert "recall.npz cannot be read" in as_page(comparison)


@pytest.mark.parametrize("pattern", ["nowhere", "no*where", "{empty}"])
def test_folders_without_runs_are_one_sentence(tmp_path, pattern):
    pattern = pattern.format(empty=tmp_path)
    with pytest.raises(SettingError, match="runs="):
        read_runs(pattern)


def test_names_are_told_apart(tmp_path):
    for folder in ("x/a/1", "y/a/1", "y/a/2"):
        write_run(tmp_path / folder, config(), images=1)
    runs, _ = read_runs(str(tmp_path))
    assert run_names(runs) == [str(tmp_path / "x/a/1"), str(tmp_path / "y/a/1"), "a/2"]


@pytest.mark.parametrize(
    ("metric", "message"),
    [("AR@100", "metric=AR@100 is no metric"), ("AR_2000", "was scored with 1000: choose a smaller N")],
)
def test_a_metric_that_cannot_be_had_is_one_sentence(sweep, metric, message):
    with pytest.raises(SettingError, match=message):
        compared(sweep, metric=metric)


# ----------------------------------------------------------------------------------------------------- reports


def test_csv_holds_every_row_and_reads_back(sweep):
    comparison = compared(sweep, baseline="ratios=[1]")
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5", "", ""]  # the last two have not finished
    (table,) = comparison.tables
    for row, entry in zip(rows, table.entries, strict=False):
        assert float(row["AR_100"]) == entry.metric("AR_100").mean
        assert row["anchor.k"] == str(entry.settings["anchor.k"])
        assert row["verdict"] == entry.verdict
        assert len(row["folders"].split(" ; ")) == len(entry.runs)
        if entry.difference is not None:
            assert (float(row["difference"]), float(row["low"])) == (entry.difference.estimate, entry.difference.low)
    assert rows[1]["paired_t_seeds"] == "3"
    assert rows[-1]["status"] == "failed"


def test_markdown_shows_a_hostile_name_as_text(tmp_path):
    write_run(tmp_path / "a", config(logger={"name": f"{HOSTILE} | [x](y)"}), images=3)
    text = as_markdown(compared(tmp_path))
    assert "<script" not in text
    assert r"&lt;script&gt;alert(1)&lt;/script&gt; \| \[x\](y)" in text


def test_the_screen_names_what_was_found_letter_by_letter(sweep):
    shown = screen(compared(sweep, baseline="ratios=[1]"))
    for words in ("AR@100", "ratios=[0.5,1,2], k=12", "better", "worse", "t over seeds", "<img src=x"):
        assert words in shown
    few = screen(compared(sweep, baseline="ratios=[1]"), rows=2)
    assert "k=6" not in few
    assert "ratios=[1], k=3" in few  # the baseline, whatever its rank


# ------------------------------------------------------------------------------------------------ command line


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    line = [sys.executable, str(ROOT / "compare.py"), *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)


def test_command_prints_and_writes_three_files(sweep, tmp_path):
    done = command(f"runs={sweep}", "baseline=ratios=[1]", "bootstrap.resamples=200", "output=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "AR@100 is highest with ratios=[0.5,1,2], k=12" in done.stdout
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["comparison.csv", "comparison.html", "comparison.md"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "a comparison leaves no run behind"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "runs has no value: give one, runs=..."),
        (["runs=nowhere"], "runs=nowhere names nothing"),
        (["runs=x", "image=common"], "image is not a setting: did you mean images?"),
        (["runs=x", "images=some"], "images=some is not possible: it must be one of same, common"),
        (["-m", "runs=x,y"], "compare does not sweep"),
        (["runs=.", "wandb=true"], "wandb.entity has no value"),
    ],
)
def test_wrong_command_lines_are_one_sentence(tmp_path, arguments, message):
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_key_of_the_config_is_read(sweep, tmp_path):
    """A changed value changes what is asked of the runs or where it is written (see runs/command.py)."""
    keys = set(check_overrides("compare", ROOT / "conf", ["runs=x"])) - {"hydra"}
    source = (ROOT / "src/anchorlab/commands/compare.py").read_text()
    assert keys == {"runs", "baseline", "metric", "images", "rows", "gallery", "output", "bootstrap", "wandb"}
    assert all(f'["{key}"]' in source for key in keys)


def test_comparing_needs_no_torch():
    code = "import sys, anchorlab.commands.compare; print({'torch', 'lightning', 'wandb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_label_names_what_tells_rows_apart_and_not_what_comes_with_a_class():
    rows = [
        {"a._target_": "x.MaxIoU", "a.low": 0.3, "a.beta": None, "b.weight": 1, "anchor.k": 3, "p._target_": "x.Plain"},
        {"a._target_": "x.ATSS", "a.low": None, "a.beta": 9, "b.weight": 4, "anchor.k": 3, "p._target_": "x.Plain"},
        {"a._target_": "x.ATSS", "a.low": None, "a.beta": 9, "b.weight": 4, "anchor.k": 3, "p._target_": "x.Tiered"},
    ]
    differing = ["a._target_", "a.low", "a.beta", "b.weight", "p._target_"]
    assert telling_keys(rows, differing) == ["a._target_", "p._target_", "b.weight"]
    rows[2]["a.beta"] = 12  # of the same class, another value: now it tells
    assert telling_keys(rows, differing)[0] == "a.beta"
    rows = [{"lr": lr, "anchor.k": k} for lr in (1, 2) for k in (3, 6)]
    assert telling_keys(rows, ["lr", "anchor.k"]) == ["anchor.k", "lr"]
    rows = [{"anchor.order": order, "lr": lr} for order, lr in (("size", 1), ("ratio", 2))]
    assert telling_keys(rows, ["anchor.order", "lr"]) == ["lr", "anchor.order"]
    rows = [{"head.objectness": word, "assigner._target_": kind} for word, kind in (("softmax", "A"), ("sigmoid", "B"))]
    assert telling_keys(rows, ["head.objectness", "assigner._target_"]) == ["assigner._target_", "head.objectness"]
    rows = [
        {"refine._target_": None, "refine.coder._target_": None, "refine.coder.clip": None, "seed": 0},
        {"refine._target_": "anchorlab.rpn.SecondLook", "refine.coder._target_": "anchorlab.rpn.DeltaCoder"}
        | {"refine.coder.clip": 4.1, "seed": 0},
    ]
    assert telling_keys(rows, list(rows[0])[:3]) == ["refine._target_"]
