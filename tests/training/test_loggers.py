"""The loggers in real use: real offline W&B runs read back with W&B's own reader, and a server that misbehaves."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import wandb
from lightning.fabric.utilities.rank_zero import rank_zero_only

from anchorlab.errors import SettingError
from anchorlab.plots.scene import Scene
from anchorlab.runs.metrics import read_metrics
from anchorlab.training.loggers.csv import CSVLogger
from anchorlab.training.loggers.hub import Loggers, build_loggers
from anchorlab.training.loggers.protocol import Row, RunFacts, RunLogger
from anchorlab.training.loggers.wandb import WandbLogger
from anchorlab.training.loggers.wandb_service import server_fault
from tests.training.wandb_server import WandbServer, answering, dripping, hanging, named_server


@pytest.fixture
def server(monkeypatch) -> Iterator[WandbServer]:
    """A W&B server of ours that the environment names, with credentials for it."""
    yield from named_server(monkeypatch)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Time for loggers to start and to end, on a machine with more to do than this."""
    monkeypatch.setattr("anchorlab.training.loggers.hub.START_SECONDS", 120)
    monkeypatch.setattr("anchorlab.training.loggers.hub.FINISH_SECONDS", 120)


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path_factory):
    """A machine without credentials, whatever this one has."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    yield
    if "WANDB_API_KEY" in os.environ:
        wandb.teardown()  # W&B remembers a key for the process


def started(folder: Path, *loggers: RunLogger, resumed: bool = False) -> Loggers:
    hub = Loggers(loggers)
    config = {"anchor": {"ratios": [0.5, 1, 2]}}
    hub.start(RunFacts(folder, "abcd1234", config, {"k": 3}, "AR_100", resumed=resumed))
    return hub


def log_epoch(hub: Loggers, epoch: int, score: float) -> None:
    hub.log_metrics({"train/loss": 1.0, "epoch": epoch}, 2 * epoch)
    hub.log_metrics({"train/loss": 0.5, "epoch": epoch}, 2 * epoch + 1)
    hub.log_metrics({"val/AR_100": score, "val/AR_s_100": -1.0, "epoch": epoch}, 2 * epoch + 1)


def newest(folder: Path) -> Path:
    return sorted((folder / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime_ns)[-1]


def inspect(run: Path, *options: str) -> list[dict]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(run)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(text)] if options else [json.loads(line) for line in text.splitlines()]


def history(run: Path) -> list[dict]:
    return [record["history"]["item"] for record in inspect(run) if record["type"] == "history"]


class Kept(RunLogger):
    """Keeps the rows that it is told, and may raise at one or hang at the end."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.rows: dict[int, Row] = {}
        self.breaks_at = breaks_at

    def resumed(self, rows) -> None:
        self.rows = dict(enumerate(rows))

    def row(self, index: int, row: Row) -> None:
        if index == self.breaks_at:
            raise OSError("the link is down\nand more")
        self.rows[index] = row


class Refusing(RunLogger):
    required = "logger.mode=online"

    def start(self, run: RunFacts) -> None:
        raise ValueError("logger.mode=online: no server; use logger.mode=offline")


class Hanging(RunLogger):
    """Never comes back from its end."""

    def finish(self, end) -> None:
        threading.Event().wait()

    def abandoned(self) -> str:
        return "upload it with: carrier pigeon"


class Exiting(RunLogger):
    """Its end never comes; abandoned, it raises from there, too, and wants to end the process."""

    title = "exiting"

    def __init__(self) -> None:
        self._left = threading.Event()

    def finish(self, end) -> None:
        self._left.wait()
        raise ConnectionError("the service has ended")

    def abandoned(self) -> str:
        self._left.set()
        next(thread for thread in threading.enumerate() if thread.name == self.title).join()
        sys.exit(247)


def test_rows_reach_the_file_at_once_and_loggers_with_the_checkpoint(tmp_path):
    kept = Kept()
    hub = started(tmp_path, kept)
    log_epoch(hub, 0, 0.5)
    assert read_metrics(tmp_path / "metrics.csv")["step"].tolist() == [0, 1, 1]
    hub.checkpointed()
    hub.log_metrics({"train/loss": 0.25, "epoch": 1}, 2)  # no checkpoint holds it
    assert hub.finish("interrupted") == []
    assert list(kept.rows) == [0, 1, 2]
    assert kept.rows[2] == {"step": 1, "epoch": 1, "val/AR_100": 0.5}, "an undefined figure is absent"


def test_a_killed_and_resumed_run_has_each_row_once_everywhere(tmp_path):
    killed = started(tmp_path, Kept())
    log_epoch(killed, 0, 0.5)
    killed.log_metrics({"train/loss": 9.0, "epoch": 1}, 2)
    kept = Kept()
    hub = started(tmp_path, kept)
    hub.cut_back(2, 0)  # its checkpoint came before the validation
    hub.log_metrics({"val/AR_100": 0.5, "epoch": 0}, 1)
    hub.finish("finished")
    curves = read_metrics(tmp_path / "metrics.csv")
    assert curves["step"].tolist() == [row["step"] for row in kept.rows.values()] == [0, 1, 1]
    assert [row.get("val/AR_100") for row in kept.rows.values()] == [None, None, 0.5]


def test_a_logger_that_raises_ends_alone_and_in_one_sentence(tmp_path):
    broken, kept = Kept(breaks_at=1), Kept()
    hub = started(tmp_path, broken, kept)
    log_epoch(hub, 0, 0.5)
    failures = hub.finish("finished")
    assert failures == [("Kept", "stopped logging (the link is down); metrics.csv has every metric")]
    assert (list(broken.rows), list(kept.rows)) == ([0], [0, 1, 2])


def test_a_logger_that_hangs_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("anchorlab.training.loggers.hub.FINISH_SECONDS", 0.1)
    hub = started(tmp_path, Hanging())
    assert hub.finish("finished") == [
        ("Hanging", "did not finish within 0.1 s; upload it with: carrier pigeon"),
    ]


def test_a_logger_that_is_left_behind_ends_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr("anchorlab.training.loggers.hub.FINISH_SECONDS", 0.1)
    hub = started(tmp_path, Exiting())
    assert hub.finish("finished") == [("exiting", "did not finish within 0.1 s")]


def test_a_required_logger_that_refuses_ends_the_run(tmp_path):
    with pytest.raises(SettingError, match=r"logger\.mode=online: no server"):
        started(tmp_path, Refusing())


def test_the_group_builds_one_several_or_no_logger(tmp_path):
    csv = {"_target_": "anchorlab.training.loggers.csv.CSVLogger"}
    own = {"_target_": f"{__name__}.Kept", "breaks_at": 7}
    assert build_loggers({"_target_": None}) == []
    assert [type(logger) for logger in build_loggers(csv)] == [CSVLogger]
    assert [type(logger).__name__ for logger in build_loggers({**csv, "own": own})] == ["CSVLogger", "Kept"]
    with pytest.raises(SettingError, match=r"logger\._target_=pathlib\.PurePath is no logger"):
        build_loggers({"_target_": "pathlib.PurePath"})


def test_other_processes_have_no_logger(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert build_loggers({"_target_": "anchorlab.training.loggers.csv.CSVLogger"}) == []


def test_an_offline_run_holds_config_curves_pictures_and_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub = started(tmp_path, WandbLogger(project="rpn", group="k", tags=["tall"], name="k=3"))
    boxes, proposals = np.array([[1, 2, 31, 13.5]]), np.array([[1, 2, 30, 12], [0, 0, 40, 20]], dtype=np.float32)
    scene = Scene(np.zeros((20, 40, 3), np.uint8), boxes, proposals, np.array([0.75, 0.5]), "a b.c")
    hub.log_picture("val/image_a b.c", scene, top=1)
    log_epoch(hub, 0, 0.75)
    log_epoch(hub, 1, 0.5)
    others = {f"val/{name}": 0.25 for name in ("AR_10", "AR_1000", "AR_s_100", "recall_100", "recall_iou70_50")}
    hub.log_metrics({**others, "val/loss": 2.0, "epoch": 2}, 4)
    hub.log_table("recall_table", ["N", "IoU 0.50"], [[10, 0.5]])
    assert hub.finish("finished") == []
    run = newest(tmp_path)
    assert hub.notices() == [
        ("W&B", f"offline (no credentials found); upload later with: wandb sync {run.relative_to(tmp_path)}")
    ]
    page, rows = inspect(run, "--summary")[0], history(run)
    assert (page["project"], page["name"], page["tags"], page["run_id"]) == ("rpn", "k=3", ["tall"], "abcd1234")
    assert page["config"] == {"anchor": {"ratios": [0.5, 1, 2]}, "k": 3}
    assert (page["summary"]["AR_100"], page["summary"]["best_AR_100"]) == (0.5, 0.75)
    under_val = {name for name in page["summary"] if name.startswith("val/")}
    assert under_val == {"val/AR_100", "val/loss", "val/image_a_b_c"}, "each metric once, beside W&B's sweeps' one"
    assert {name.removeprefix("val/") for name in others} - {"val/loss"} <= set(page["summary"])
    assert [row["trainer/global_step"] for row in rows] == [0, 1, 1, 2, 3, 3, 4]
    picture = page["summary"]["val/image_a_b_c"]
    found = json.loads((run / "files" / picture["boxes"]["predictions"]["path"]).read_text())["box_data"]
    assert [box["scores"]["score"] for box in found] == [0.75], "the best only"
    table = json.loads((run / "files" / page["summary"]["recall_table"]["path"]).read_text())
    assert table["data"] == [[10, 0.5]]


def test_wandbs_own_variables_go_before_our_defaults_and_behind_what_was_typed(tmp_path, monkeypatch):
    for name, value in (
        ("PROJECT", "theirs"),
        ("NAME", "run 5"),
        ("TAGS", "a, b"),
        ("DIR", str(tmp_path / "wandb here")),
    ):
        monkeypatch.setenv(f"WANDB_{name}", value)
    started(tmp_path / "run", WandbLogger("offline")).finish("finished")
    page = inspect(newest(tmp_path / "wandb here"), "--summary")[0]
    assert (page["project"], page["name"], page["tags"]) == ("theirs", "run 5", ["a", "b"])
    started(tmp_path / "run", WandbLogger("offline", "ours", name="mine", tags=["c"])).finish("finished")
    page = inspect(newest(tmp_path / "wandb here"), "--summary")[0]
    assert (page["project"], page["name"], page["tags"]) == ("ours", "mine", ["c"])
    started(tmp_path / "run", WandbLogger("offline", "anchorlab")).finish("finished")
    assert inspect(newest(tmp_path / "wandb here"), "--summary")[0]["project"] == "anchorlab"  # typed, and the default


def test_the_newest_folder_of_a_resumed_offline_run_has_the_whole_curves(tmp_path):
    first = started(tmp_path, WandbLogger("offline"))
    log_epoch(first, 0, 0.75)
    first.checkpointed()
    first.finish("interrupted")
    second = started(tmp_path, WandbLogger("offline"))
    second.cut_back(2, 2)
    log_epoch(second, 1, 0.5)
    second.finish("finished")
    rows = history(newest(tmp_path))
    assert [row["trainer/global_step"] for row in rows] == [0, 1, 1, 2, 3, 3]
    assert [row["val/AR_100"] for row in rows if "val/AR_100" in row] == [0.75, 0.5]
    assert inspect(newest(tmp_path), "--summary")[0]["summary"]["best_AR_100"] == 0.75


@pytest.mark.parametrize(
    ("code", "body", "says"),
    [
        (401, b"{}", "answers 401"),
        (403, b"{}", "answers 403"),
        (404, b"{}", "answers 404"),
        (429, b"{}", "answers 429"),
        (500, b"{}", "answers 500"),
        (200, b"<html>sign in</html>", "does not answer like a W&B server"),
        (200, b'{"data": {"viewer": null}}', "does not know the API key"),
    ],
)
def test_a_server_that_refuses_is_called_so_after_one_question(server, code, body, says):
    server.fault = answering(code, body)
    assert says in server_fault()
    assert server.requests == ["POST /graphql Viewer"]


def test_a_server_that_is_not_there_is_called_so(server):
    server.stop()
    assert server_fault() == f"127.0.0.1:{server.port} does not answer ([Errno 111] Connection refused)"


@pytest.mark.parametrize("fault", [hanging, dripping])
def test_a_server_that_never_ends_its_answer_is_not_waited_for(server, fault, monkeypatch):
    monkeypatch.setattr("anchorlab.training.loggers.wandb_service.PROBE_SECONDS", 0.2)
    server.fault = fault
    assert server_fault() == f"127.0.0.1:{server.port} does not answer within 0.2 s"


def test_a_server_that_takes_the_key_has_no_fault(server):
    assert server_fault() == ""


def test_a_refusing_server_means_offline_or_a_sentence(server, tmp_path, capfd):
    server.fault = answering(500)
    hub = started(tmp_path, WandbLogger())
    log_epoch(hub, 0, 0.5)
    assert hub.finish("finished") == []
    assert "offline (127.0.0.1" in hub.notices()[0][1]
    assert inspect(newest(tmp_path), "--summary")[0]["summary"]["AR_100"] == 0.5
    assert capfd.readouterr() == ("", "")
    with pytest.raises(SettingError, match=r"logger\.mode=online: 127\.0\.0\.1:\d+ answers 500"):
        started(tmp_path, WandbLogger("online"))


def test_online_without_credentials_and_an_unknown_mode_are_refused(tmp_path):
    with pytest.raises(SettingError, match=r"logger\.mode=online finds no credentials"):
        started(tmp_path, WandbLogger("online"))
    with pytest.raises(ValueError, match=r"mode=later"):
        WandbLogger("later")  # type: ignore[arg-type]


def test_tensorboard_is_read_back(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (logger,) = build_loggers({"_target_": "anchorlab.training.loggers.tensorboard.TensorBoardLogger"})
    hub = started(tmp_path, logger)
    log_epoch(hub, 0, 0.5)
    assert hub.finish("finished") == []
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(0, 1.0), (1, 0.5)]
    assert [(event.step, event.value) for event in events.Scalars("val/AR_100")] == [(1, 0.5)]


def test_mlflow_is_read_back_also_after_a_resume(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.chdir(tmp_path)
    place = {"uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "anchors"}
    choice = {"_target_": "anchorlab.training.loggers.mlflow.MLflowLogger", **place}
    first = started(tmp_path, *build_loggers(choice))
    log_epoch(first, 0, 0.75)
    first.checkpointed()
    first.log_metrics({"train/loss": 9.0, "epoch": 1}, 2)  # no checkpoint holds it
    assert first.finish("interrupted") == []
    second = started(tmp_path, *build_loggers(choice), resumed=True)
    second.cut_back(2, 2)
    scene = Scene(np.zeros((20, 40, 3), np.uint8), np.zeros((0, 4)), np.zeros((0, 4)), np.zeros(0), "7")
    second.log_picture("val/image_7", scene, top=1)
    log_epoch(second, 1, 0.5)
    second.log_table("recall_table", ["N", "IoU 0.50"], [[10, 0.5]])
    second.log_timings({"fit_s": 2.5})
    assert second.finish("finished") == []
    client = mlflow.MlflowClient(place["uri"])
    (run,) = client.search_runs([client.get_experiment_by_name("anchors").experiment_id])
    assert run.info.status == "FINISHED"
    assert (run.data.params["anchor.ratios"], run.data.params["k"]) == ("[0.5, 1, 2]", "3")
    history = {name: client.get_metric_history(run.info.run_id, name) for name in ("train/loss", "val/AR_100")}
    points = {name: [(point.step, point.value) for point in found] for name, found in history.items()}
    assert points["train/loss"] == [(0, 1.0), (1, 0.5), (2, 1.0), (3, 0.5)]
    assert points["val/AR_100"] == [(1, 0.75), (3, 0.5)]
    assert run.data.metrics["timings/fit_s"] == 2.5
    artifacts = [file.path for file in client.list_artifacts(run.info.run_id, "val/image_7")]
    assert artifacts == ["val/image_7/epoch_002.png"]
    path = client.download_artifacts(run.info.run_id, "recall_table.csv", str(tmp_path))
    assert Path(path).read_text() == "N,IoU 0.50\n10,0.5\n"
