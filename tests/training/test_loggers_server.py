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
from tests.training.wandb_server import KeptRun, WandbServer, hanging

ONLINE = ("logger=wandb", "callbacks.pictures.images=1", "hydra.run.dir=run")
CLIENTS = ("_timestamp", "_runtime", "_step", "trainer/global_step")


@pytest.fixture
def server():
    server = WandbServer()
    yield server
    server.stop()


@pytest.fixture
def account(server, tmp_path) -> dict[str, str]:
    """The environment of a process that has credentials for the server, and uploads at once."""
    return {**server.environment, "HOME": str(tmp_path), "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "0.1"}


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


def test_a_run_that_a_scheduler_stops_is_preempted(server, account, small, forker: Forker, tmp_path):
    running = forker.start(tmp_path, *small, *ONLINE, "trainer.epochs=50", environment=account)
    running.wait_until(lambda: server.runs and server.run.history)
    running.send(signal.SIGTERM)
    assert running.wait() == 128 + signal.SIGTERM, running.err
    assert server.run.preempting
    assert server.run.exit_code == 1
