"""Damaged and hostile run folders: each costs one sentence, and none of the runs beside it its place in the comparison.

The folders lie beside a good run; what is wrong with each is one line of a table.
"""

import contextlib
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from anchorlab.comparing.comparison import Question, compare
from anchorlab.comparing.page import as_page
from anchorlab.comparing.report import answer, as_csv, as_markdown, on_screen
from anchorlab.comparing.scores import read_runs
from anchorlab.comparing.statistics import Bootstrap
from anchorlab.errors import SettingError, UserError
from anchorlab.interface.runs import Run
from anchorlab.runs.record import RunRecord
from anchorlab.sweeps.jobs import outcome
from anchorlab.trained.load import load_trained
from anchorlab.trained.model_card import as_page as model_card
from anchorlab.training.resume import latest_unfinished, position, resumed_config
from tests.comparing.material import config, write_run

Damage = Callable[[Path], None]

LEFT_OUT = "left out"
UNSCORED = "without scores"
HARMLESS = "harmless"
"""What the comparison does with the folder: it has no place in it, or one without scores, or one like any other."""

NESTED_JSON = "[" * 100_000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
ESCAPES = "\x1b[31mred\x1b]0;title\x07\u202e"


def run_json(**changes: Any) -> Damage:
    """These keys of run.json hold these values."""

    def damage(run: Path) -> None:
        content = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(content | changes))

    return damage


def metrics_of(**changes: Any) -> Damage:
    def damage(run: Path) -> None:
        content = json.loads((run / "run.json").read_text())
        content["figures"]["final"] |= changes
        (run / "run.json").write_text(json.dumps(content))

    return damage


def settings(**changes: Any) -> Damage:
    def damage(run: Path) -> None:
        content = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump(content | changes))

    return damage


def text(name: str, content: str | bytes) -> Damage:
    def damage(run: Path) -> None:
        (run / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def arrays(name: str, **changes: Any) -> Damage:
    """These arrays of an .npz file are others; None: missing."""

    def damage(run: Path) -> None:
        with np.load(run / name) as kept:
            content = dict(kept) | {key: value for key, value in changes.items() if value is not None}
        content = {key: value for key, value in content.items() if key not in changes or changes[key] is not None}
        np.savez_compressed(run / name, allow_pickle=True, **content)

    return damage


def cut(name: str, share: float) -> Damage:
    def damage(run: Path) -> None:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: int(len(content) * share)])

    return damage


def fifo(name: str) -> Damage:
    def damage(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return damage


def link(name: str, target: str) -> Damage:
    def damage(run: Path) -> None:
        (run / name).unlink()
        (run / name).symlink_to(target)

    return damage


def folder(name: str) -> Damage:
    def damage(run: Path) -> None:
        (run / name).unlink()
        (run / name).mkdir()

    return damage


def large(name: str) -> Damage:
    """Of many gigabytes, none of them on the disk."""

    def damage(run: Path) -> None:
        os.truncate(run / name, 2**36)

    return damage


def zip_bomb(name: str) -> Damage:
    def damage(run: Path) -> None:
        with zipfile.ZipFile(run / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for at in range(3):
                archive.writestr(f"{at}.npy", bytes(2**24))
        content = (run / name).read_bytes()  # what the directory says is larger still
        (run / name).write_bytes(content.replace((2**24).to_bytes(4, "little"), (2**31).to_bytes(4, "little")))

    return damage


def gone(name: str) -> Damage:
    return lambda run: (run / name).unlink()


def _header(shape: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
        archive.writestr("rank.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return packed.getvalue()


WRONG_KINDS = {
    "id": (5, [], {}),
    "status": (5, None, [], {}, "done", "", ESCAPES),
    "reason": (5, ["a"], {}, True),
    "warnings": (5, "a", [1], {"a": 5}, {"a": None}),
    "seed": ("0", 0.5, [], {}, True, 10**400),
    "resumed": ("1", -1, [], 0.5),
    "created": (5, [], {}),
    "overrides": (5, "a=b", [5], [None], {"a": 1}),
    "config_hash": (5, [], {}),
    "command_hash": (5, []),
    "commit": (5, [], {}),
    "dirty": ("yes", []),
    "axes": (5, "a", [1], {"k": [3]}, {"k": {}}, {"k": float("inf")}),
    "timings": (5, "a", [1], {"fit_s": "60"}, {"fit_s": [1]}, {"fit_s": float("nan")}, {"fit_s": True}),
    "figures": (5, "a", [1], {"final": 5}, {"final": {"AR_100": "0.5"}}, {"best": [1]}, {"final": {"AR_100": []}}),
    "machine": (5, "a", [1]),
    "versions": (5, "a", {"torch": [2]}),
    "schema_version": ("1", None, 99, 1.5, -1),
    "choices": (5, "a"),
}
GROUPS = ("data", "trainer", "logger", "callbacks", "anchor", "backbone", "proposals")
NOT_OF_RUNS = {"number": 5, "text": "abc", "list": [1, 2]}

TABLE: dict[str, tuple[Damage, str]] = {
    f"run.json {key} {at}": (run_json(**{key: value}), LEFT_OUT)
    for key, values in WRONG_KINDS.items()
    for at, value in enumerate(values)
}
TABLE |= {
    f"config.yaml {group} a {kind}": (settings(**{group: value}), LEFT_OUT)
    for group in GROUPS
    for kind, value in NOT_OF_RUNS.items()
}
TABLE |= {
    f"{name} {kind}": (damage(name), verdict)
    for name, verdict in (
        ("run.json", LEFT_OUT),
        ("config.yaml", LEFT_OUT),
        ("recall.npz", UNSCORED),
        ("proposals.npz", HARMLESS),
        ("metrics.csv", HARMLESS),
        ("anchors.json", HARMLESS),
    )
    for kind, damage in {
        "link out": lambda name: link(name, "/etc/passwd"),
        "link to a device": lambda name: link(name, "/dev/zero"),
        "link in a circle": lambda name: link(name, name),
        "fifo": fifo,
        "folder": folder,
        "no text": lambda name: text(name, b"\xff\xfe\x00\x01"),
        "large": large,
    }.items()
    if (name, kind) not in (("run.json", "folder"), ("run.json", "link in a circle"))  # no run's folder then
}
TABLE |= {
    "run.json empty": (text("run.json", ""), LEFT_OUT),
    "run.json a list": (text("run.json", "[]"), LEFT_OUT),
    "run.json a number": (text("run.json", "5"), LEFT_OUT),
    "run.json cut": (cut("run.json", 0.5), LEFT_OUT),
    "run.json nested": (text("run.json", NESTED_JSON), LEFT_OUT),
    "run.json nested within bounds of Python": (run_json(more=json.loads("[" * 500 + "]" * 500)), LEFT_OUT),
    "run.json a long number": (text("run.json", '{"seed": ' + "9" * 5000 + "}"), LEFT_OUT),
    "run.json empty mapping": (text("run.json", "{}"), HARMLESS),
    "config.yaml empty": (text("config.yaml", ""), LEFT_OUT),
    "config.yaml a list": (text("config.yaml", "[1]"), LEFT_OUT),
    "config.yaml bomb": (text("config.yaml", BOMB), LEFT_OUT),
    "config.yaml alias of itself": (text("config.yaml", "data: &a {b: *a}"), LEFT_OUT),
    "config.yaml nested brackets": (text("config.yaml", "a: " + "[" * 100_000), LEFT_OUT),
    "config.yaml nested dashes": (text("config.yaml", "a:\n " + "- " * 50_000 + "x"), LEFT_OUT),
    "config.yaml object": (text("config.yaml", "a: !!python/object/apply:os.system [ls]"), LEFT_OUT),
    "config.yaml key a list": (text("config.yaml", "? [a]\n: 1"), LEFT_OUT),
    "config.yaml bytes": (text("config.yaml", "data: {root: !!binary aGk=}"), LEFT_OUT),
    "config.yaml set": (text("config.yaml", "data: {root: !!set {a, b}}"), LEFT_OUT),
    "config.yaml numbers as keys": (text("config.yaml", "data: {5: a}"), LEFT_OUT),
    "config.yaml two documents": (text("config.yaml", "a: 1\n---\nb: 2"), LEFT_OUT),
    "config.yaml gone": (gone("config.yaml"), HARMLESS),
    "config.yaml odd root": (settings(data={"root": 5}), HARMLESS),
    "config.yaml odd target": (settings(anchor={"_target_": 5}), HARMLESS),
    "config.yaml unknown target": (settings(anchor={"_target_": "os.system"}), HARMLESS),
    "config.yaml callbacks of numbers": (settings(callbacks={"a": 5}), HARMLESS),
    "config.yaml name a list": (settings(logger={"name": [1]}), HARMLESS),
    "recall.npz empty": (text("recall.npz", ""), UNSCORED),
    "recall.npz cut": (cut("recall.npz", 0.5), UNSCORED),
    "recall.npz bomb": (zip_bomb("recall.npz"), UNSCORED),
    "recall.npz huge shape": (text("recall.npz", _header(f"({2**60},)")), UNSCORED),
    "recall.npz header nested": (text("recall.npz", _header("(" * 90)), UNSCORED),
    "recall.npz objects": (arrays("recall.npz", rank=np.array([{}, {}], dtype=object)), UNSCORED),
    "recall.npz text": (arrays("recall.npz", rank=np.array(["a"])), UNSCORED),
    "recall.npz flat rank": (arrays("recall.npz", rank=np.zeros(7, np.int32)), UNSCORED),
    "recall.npz short rank": (arrays("recall.npz", rank=np.zeros((1, 10, 4), np.int32)), UNSCORED),
    "recall.npz no budget": (arrays("recall.npz", budgets=np.zeros(0, np.int64)), UNSCORED),
    "recall.npz budget of zero": (arrays("recall.npz", budgets=np.zeros(1, np.int64)), UNSCORED),
    "recall.npz other thresholds": (arrays("recall.npz", thresholds=np.linspace(0.1, 0.9, 10)), UNSCORED),
    "recall.npz negative counts": (arrays("recall.npz", num_boxes=np.full(40, -1)), UNSCORED),
    "recall.npz float counts": (arrays("recall.npz", num_boxes=np.full(40, 1.5)), UNSCORED),
    "recall.npz other areas": (arrays("recall.npz", areas=np.array(["a", "b", "c", "d"])), UNSCORED),
    "recall.npz gone": (gone("recall.npz"), UNSCORED),
    **{f"recall.npz without {name}": (arrays("recall.npz", **{name: None}), UNSCORED) for name in ("index", "counted")},
    "proposals.npz cut": (cut("proposals.npz", 0.5), HARMLESS),
    "proposals.npz objects": (arrays("proposals.npz", boxes=np.array([{}], dtype=object)), HARMLESS),
    "proposals.npz counts": (arrays("proposals.npz", num_boxes=np.full(3, 10**6)), HARMLESS),
    "proposals.npz flat boxes": (arrays("proposals.npz", boxes=np.zeros(3)), HARMLESS),
    "proposals.npz no picture": (arrays("proposals.npz", jpeg=None), HARMLESS),
    "proposals.npz no image": (arrays("proposals.npz", image_ids=np.zeros(0, "U1")), HARMLESS),
    "metrics.csv no step": (text("metrics.csv", "a,b\n1,2\n"), HARMLESS),
    "metrics.csv words": (text("metrics.csv", "step,val/AR_100\nabc,x\n"), HARMLESS),
    "metrics.csv a step that is none": (text("metrics.csv", "step,val/AR_100\nnan,0.5\n"), HARMLESS),
    "metrics.csv empty": (text("metrics.csv", ""), HARMLESS),
    "metrics.csv header alone": (text("metrics.csv", "step\n"), HARMLESS),
    "metrics.csv long rows": (text("metrics.csv", "step\n1,2,3\n"), HARMLESS),
    "metrics.csv a long cell": (text("metrics.csv", "step\n" + "1" * 200_000 + "\n"), HARMLESS),
    "metrics.csv zeros": (text("metrics.csv", "step,epoch,val/loss\n-1,0,1\n"), HARMLESS),
    "anchors.json a list": (text("anchors.json", "[]"), HARMLESS),
    "anchors.json nested": (text("anchors.json", NESTED_JSON), HARMLESS),
    "anchors.json infinite": (text("anchors.json", '{"schema_version": 1, "images": 1e999}'), HARMLESS),
    "anchors.json rows of numbers": (
        text("anchors.json", '{"schema_version": 1, "images": 1, "budget": 1, "AR": 0, "funnel": [5], "shapes": []}'),
        HARMLESS,
    ),
    "escapes in a reason": (run_json(reason=ESCAPES), HARMLESS),
    "escapes in a commit": (run_json(commit=ESCAPES), HARMLESS),
    "escapes in a warning": (run_json(warnings={"a": ESCAPES}), HARMLESS),
    "escapes in an axis": (run_json(axes={"k": ESCAPES, ESCAPES: 1}), HARMLESS),
    "escapes in a name": (settings(logger={"name": ESCAPES}), HARMLESS),
    "escapes in a setting": (settings(anchor={"_target_": ESCAPES, "k": 5}), HARMLESS),
    "half a letter": (run_json(id="\ud800", commit="\ud800", reason="\ud800"), HARMLESS),
    "null where older runs have nothing": (
        run_json(**dict.fromkeys(("reason", "warnings", "seed", "axes", "timings", "overrides", "commit", "machine"))),
        HARMLESS,
    ),
    "null for a metric": (metrics_of(AR_100=None), HARMLESS),
    "a lock that leads outside": (lambda run: (run / ".run.lock").symlink_to("/nowhere"), HARMLESS),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A folder of a good run, and of one that is damaged in copies."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "good", config(), 0.3)
    write_run(root / "other", config(anchor__k=6), 0.4)
    return root


@pytest.fixture
def damaged(sound, tmp_path) -> Path:
    """`bad` is to be damaged, `good` is a good run."""
    for name, source in (("good", "good"), ("bad", "other")):
        shutil.copytree(sound / source, tmp_path / name)
    return tmp_path


def outputs(root: Path) -> tuple[str, dict[str, str]]:
    """What becomes of `bad`, and the texts that the comparison writes."""
    runs, problems = read_runs(str(root))
    found = compare(runs, Question(bootstrap=Bootstrap(resamples=100)), problems)
    screen = Console(file=io.StringIO(), width=110, highlight=False, soft_wrap=True)
    screen.print(on_screen(found, 20))
    assert isinstance(screen.file, io.StringIO)
    texts = {"screen": screen.file.getvalue(), "csv": as_csv(found), "md": as_markdown(found), "answer": answer(found)}
    assert any("good" in name for table in found.tables for entry in table.entries for name in entry.names)
    places = [run.folder.name for run in runs]
    if "bad" not in places:
        assert len(problems) == 1
        assert problems[0].startswith("left out: ")
        assert str(root / "bad") in problems[0]
        assert "\n" not in problems[0]
        return LEFT_OUT, texts
    texts["html"] = as_page(found, folder=root)
    scored = [run.folder.name for table in found.tables for entry in table.entries for run in entry.runs]
    return HARMLESS if "bad" in scored else UNSCORED, texts


@pytest.mark.parametrize("name", TABLE)
def test_one_bad_folder_costs_one_sentence(name, damaged):
    damage, verdict = TABLE[name]
    damage(damaged / "bad")
    found, texts = outputs(damaged)
    assert found == verdict
    for kind, content in texts.items():
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", _own(kind, content)), kind


def _own(kind: str, content: str) -> str:
    """Of the page, what comes from the runs, without plotly's code."""
    return content if kind != "html" else content.split('id="content">', 1)[1].split("</script>", 1)[0]


@pytest.mark.parametrize("name", TABLE)
def test_readers_of_one_run_answer_in_a_sentence(name, damaged):
    """Python's object, `resume=`, `resume=auto` and a sweep's table read the same border."""
    run = damaged / "bad"
    TABLE[name][0](run)
    asked = {**config(), "resume": str(run)}
    for reader in (
        lambda: Run(run).curves,
        lambda: resumed_config(asked, []),
        lambda: latest_unfinished([run], asked),
        lambda: str(outcome(run)),
        lambda: RunRecord(run).would_lose(),
    ):
        with contextlib.suppress(UserError):
            reader()


def test_forty_runs_do_not_pay_for_a_bad_one(damaged):
    (damaged / "bad" / "config.yaml").write_text(BOMB)
    found, texts = outputs(damaged)
    assert found == LEFT_OUT
    assert "it holds an alias" in texts["md"]


def test_cells_are_no_formulas(damaged):
    settings(logger={"name": '=HYPERLINK("http://example.org")'})(damaged / "bad")
    run_json(reason="@SUM(A1)", axes={"ratio_span": -4.5})(damaged / "bad")
    _, texts = outputs(damaged)
    assert "'=HYPERLINK" in texts["csv"]
    assert "'@SUM" in texts["csv"]
    assert ",-4.5," in texts["csv"]


OLD = Path(__file__).parents[1] / "old_runs"


def nested(*path: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    """The checkpoint with this value at this place."""

    def damage(content: dict[str, Any]) -> Any:
        *above, last = path
        for name in above:
            content = content[name]
        content[last] = value

    return damage


PROGRESS = ("loops", "fit_loop", "epoch_progress", "current", "processed")
BEST = "BestCheckpoint{'monitor': 'val/AR_100', 'mode': 'max', 'every_n_train_steps': 0, 'every_n_epochs': 1, "
BEST += "'train_time_interval': None}"
CHECKPOINTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda content: [],
    "a tensor": lambda content: torch.zeros(3),
    "empty": lambda content: {},
    **{f"no {name}": (lambda content, name=name: content.pop(name) and None) for name in ("config", "state_dict")},
    "loops a list": nested("loops", value=[]),
    "no loop": nested("loops", value={}),
    "progress a text": nested(*PROGRESS, value="3"),
    "negative progress": nested(*PROGRESS, value=-1),
    "step a text": nested("global_step", value="3"),
    "negative step": nested("global_step", value=-3),
    "weights a list": nested("state_dict", value=[]),
    "weights of numbers": nested("state_dict", value={"network.a": 5}),
    "config a list": nested("config", value=[]),
    "config empty": nested("config", value={}),
    "config a group of numbers": nested("config", "data", value=5),
    "no backbone": nested("config", "backbone", value=None),
    "a foreign class": nested("config", "backbone", "_target_", value="os.system"),
    "a class that is none": nested("config", "backbone", "_target_", value=5),
}
RESUMED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "negative count": nested("loops", "fit_loop", "epoch_loop.state_dict", "_batches_that_stepped", value=-5),
    "no optimizer": nested("optimizer_states", value=None),
    "no recorder": nested("callbacks", value={}),
    "recorder of texts": nested("callbacks", "Recorder", "fit_s", value="x"),
    "scored a text": nested("scored_step", value="3"),
    "a best checkpoint elsewhere": nested("callbacks", BEST, "best_k_models", value={"/etc/passwd": 0.5}),
    "a worst checkpoint elsewhere": nested("callbacks", BEST, "kth_best_model_path", value="/etc/passwd"),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    shutil.copytree(OLD / "stopped", folder := tmp_path_factory.mktemp("old") / "stopped")
    return folder


def rewritten(run: Path, damage: Callable[[dict[str, Any]], Any]) -> None:
    content = torch.load(OLD / "stopped" / "checkpoints" / "last.ckpt", weights_only=True)
    other = damage(content)
    torch.save(content if other is None else other, run / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_no_run_wrote_is_named(name, stopped):
    rewritten(stopped, CHECKPOINTS[name])
    with pytest.raises(UserError, match=r"last\.ckpt") as error:
        load_trained(stopped)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", RESUMED)
def test_a_checkpoint_that_nobody_can_resume_is_named(name, stopped):
    rewritten(stopped, RESUMED[name])
    with pytest.raises(SettingError, match=r"last\.ckpt cannot be read.*start the run anew"):
        position(stopped)


def test_a_checkpoint_that_a_run_wrote_is_read(stopped):
    rewritten(stopped, lambda content: None)
    assert load_trained(stopped).step == 3
    assert str(position(stopped)) == "step 3 (epoch 2)"


@pytest.mark.parametrize(
    ("group", "value"), [("trainer", {"precision": "abc"}), ("trainer", {"epochs": -1}), ("anchor", {"scale": "x"})]
)
def test_settings_of_a_run_to_resume_are_checked(group, value, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    content = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(content | {group: content[group] | value}))
    with pytest.raises(SettingError, match=rf"config\.yaml cannot be resumed: {group}\."):
        resumed_config({**config(), "resume": str(tmp_path / "run")}, [])


def test_a_model_card_holds_no_markup_of_a_stranger():
    config = yaml.safe_load((OLD / "stopped" / "config.yaml").read_text())
    bad = "<script>x</script> [a](http://b) " + ESCAPES
    about = {"name": bad, "commit": bad, "licence": bad, "epoch": 1, "step": 3, "versions": {"anchorlab": bad}}
    card = model_card(about, config, [], [], {})
    assert "<script>" not in card
    assert "[a](" not in card
    assert "\x1b" not in card


MODEL = {
    "no config": {"config": None},
    "about a list": {"about": []},
    "step a text": {"about": {"step": "3"}},
    "figures of texts": {"about": {"figures": {"AR_100": "x"}}},
    "anchors of texts": {"about": {"anchors": ["x"]}},
    "version a text": {"schema_version": "1"},
}


@pytest.mark.parametrize("name", MODEL)
def test_an_exported_model_that_no_export_wrote_is_named(name, tmp_path):
    content = json.loads((OLD / "exported" / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(content | MODEL[name]))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"model\.json"):
        load_trained(tmp_path)
