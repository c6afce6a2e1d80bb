"""W&B runs on a server that takes them, goes away, or never answers: what it holds at the end, and what is printed."""

import os
import signal
from pathlib import Path

import pytest
import wandb

from anchorlab.runs.metrics import read_metrics
from anchorlab.runs.record import read_run
from anchorlab.training.loggers.upload import main as upload
from tests.training.processes import Forker
from tests.training.wandb_server import KeptRun, Request, WandbServer, answering, hanging

ONLINE = ("logger=wandb", "callbacks.pictures.images=1", "hydra.run.dir=run")
CLIENTS = ("_timestamp", "_runtime", "_step", "trainer/global_step")


@pytest.fixture
def server():
    server = WandbServer()
    yield server
    server.stop()


@pytest.fixture
def account(server, tmp_path) -> dict[str, str]:
    """The environment of a process that has credentials for the server."""
    return {**server.environment, "HOME": str(tmp_path)}


@pytest.fixture
def hold(tmp_path) -> tuple[Path, list[str]]:
    """A FIFO, and the overrides that hold a run until it is written into."""
    os.mkfifo(tmp_path / "hold")
    target = "+callbacks.breaking._target_=tests.training.breaking.Hold"
    return tmp_path / "hold", [target, f"+callbacks.breaking.fifo={tmp_path / 'hold'}"]


def assert_same_curves(kept: KeptRun, folder: Path) -> None:
    """What the server holds is metrics.csv, row for row, and run.json."""
    curves = read_metrics(folder / "metrics.csv")
    history = kept.history
    assert [row["_step"] for row in history] == list(range(len(curves["step"])))
    assert [row["trainer/global_step"] for row in history] == curves["step"].tolist()
    for index, row in enumerate(history):
        ours = {name: column[index] for name, column in curves.items() if name != "step"}
        ours = {name: value for name, value in ours.items() if value == value and value != -1}
        theirs = {name: value for name, value in row.items() if name not in CLIENTS and not isinstance(value, dict)}
        assert theirs == pytest.approx(ours | {"epoch": ours["epoch"] + 1})
    run = read_run(folder)
    for name in ("recall_100", "AR_100", "AR_1000"):
        assert kept.summary[name] == run.final[name]
        assert kept.summary[f"best_{name}"] == run.best[name]


def rows_of(folder: Path) -> int:
    path = folder / "metrics.csv"
    return len(read_metrics(path)["step"]) if path.exists() else 0


def pictures_of(kept: KeptRun) -> dict[int, dict]:
    """By epoch: the one image of each validation."""
    return {
        row["epoch"]: picture for row in kept.history for name, picture in row.items() if name.startswith("val/image")
    }


def taking_no_rows(request: Request) -> bool:
    if not request.path.endswith("/file_stream"):
        return False
    request.answer(503, b"{}")
    return True


@pytest.mark.long
@pytest.mark.parametrize("arrives", ["in time", "too late"])
def test_a_run_that_is_killed_and_resumed_is_on_the_server_row_for_row(
    arrives, server, account, small, forker: Forker, hold, tmp_path
):
    """Killed in its second epoch, whose rows the server has, or none at all."""
    fifo, held = hold
    if arrives == "too late":
        server.fault = taking_no_rows
    running = forker.start(tmp_path, *small, *ONLINE, *held, "trainer.epochs=3", environment=account)
    if arrives == "in time":  # also the validation's, which ends the first epoch
        running.wait_until(lambda: server.runs and len(server.run.history) >= 4)
    else:
        running.wait_until(lambda: server.runs and rows_of(tmp_path / "run") >= 6)
    running.send(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, running.out + running.err
    server.fault = lambda request: False
    before = len(server.run.history)
    resumed = forker.start(tmp_path, "resume=run", environment=account)
    resumed.wait_until(lambda: rows_of(tmp_path / "run") >= 5)
    fifo.write_text("go on")
    assert resumed.wait() == 0, resumed.err
    assert_same_curves(server.run, tmp_path / "run")
    assert server.run.exit_code == 0
    config = server.run.config
    assert config["choices"]["assigner"] == "atss"
    assert config["config_hash"] == read_run(tmp_path / "run").config_hash
    assert config["timings"]["fit_s"] > 0
    pictures = pictures_of(server.run)
    assert set(pictures) == ({1, 2, 3} if before else {2, 3}), "a picture that the server did not have dies with a run"
    for epoch, picture in pictures.items():
        assert picture["caption"] == f"epoch {epoch}"
        assert {picture["path"], picture["boxes"]["predictions"]["path"]} <= set(server.run.files)
    assert pictures[2]["path"] == pictures[3]["path"], "the same pixels are one file"


@pytest.mark.long
def test_a_server_that_goes_away_costs_nothing_but_an_upload(
    server, account, small, forker: Forker, hold, tmp_path, monkeypatch
):
    fifo, held = hold
    running = forker.start(tmp_path, *small, *ONLINE, *held, "trainer.epochs=3", environment=account)
    running.wait_until(lambda: server.runs and server.run.history)
    server.stop()
    fifo.write_text("go on")
    assert running.wait() == 0, running.err
    run = read_run(tmp_path / "run")
    assert run.status == "finished"
    assert "python -m anchorlab.training.loggers.upload run" in " ".join(running.out.split())
    server.start()
    wandb.teardown()  # W&B remembers an address for the process
    for name, value in account.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):  # twice is as good as once
        upload([str(tmp_path)])
        assert_same_curves(server.run, tmp_path / "run")
    assert server.run.exit_code == 0


@pytest.mark.long
def test_a_server_that_refuses_from_some_moment_on_is_said_to_lack_something(
    server, account, small, forker: Forker, hold, tmp_path
):
    fifo, held = hold
    running = forker.start(tmp_path, *small, *ONLINE, *held, environment=account)
    running.wait_until(lambda: server.runs and server.run.history)
    server.fault = answering(401)
    fifo.write_text("go on")
    assert running.wait() == 0, running.err
    assert read_run(tmp_path / "run").status == "finished"
    assert "python -m anchorlab.training.loggers.upload run" in " ".join(running.out.split())


def test_online_alone_without_an_answer_is_one_sentence(server, account, small, forker: Forker, tmp_path):
    server.fault = hanging
    running = forker.start(tmp_path, *small, *ONLINE, "logger.mode=online", environment=account)
    assert running.wait() == 2
    run = read_run(tmp_path / "run")
    assert run.status == "failed"
    assert run.reason is not None
    assert running.err == f"error: {run.reason}\n"
    answer = f"127.0.0.1:{server.port} does not answer within 4 s"
    assert run.reason == f"logger.mode=online: {answer}; use logger.mode=offline"


@pytest.mark.long
def test_a_run_that_a_scheduler_stops_is_preempted(server, account, small, forker: Forker, tmp_path):
    running = forker.start(tmp_path, *small, *ONLINE, "trainer.epochs=50", environment=account)
    running.wait_until(lambda: server.runs and server.run.history)
    running.send(signal.SIGTERM)
    assert running.wait() == 128 + signal.SIGTERM, running.err
    assert server.run.preempting
    assert server.run.exit_code == 1
