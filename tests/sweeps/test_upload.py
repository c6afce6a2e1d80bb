"""What a sweep says of W&B: before its first job, and after its last."""

import json
from pathlib import Path

import pytest

from anchorlab.errors import SettingError
from anchorlab.sweeps.upload import command, state
from tests.training.wandb_server import answering, named_server

LOGGER = {"_target_": "anchorlab.training.WandbLogger", "mode": "auto"}


@pytest.fixture
def server(monkeypatch):
    yield from named_server(monkeypatch)


def test_the_start_says_whether_the_server_answers(server):
    assert state({"_target_": "anchorlab.training.CSVLogger"}) is None
    assert state(LOGGER) == f"W&B: online ({server.address})"
    server.fault = answering(500)
    host = f"127.0.0.1:{server.port}"
    assert state(LOGGER) == f"W&B: offline ({host} answers 500 Internal Server Error)"
    with pytest.raises(SettingError, match=r"logger\.mode=online: 127\.0\.0\.1:\d+ answers 500"):
        state({**LOGGER, "mode": "online"})


def segment(sweep: Path, job: int, name: str, synced: bool = False, place: Path | None = None) -> None:
    folder = (place or sweep / str(job)) / "wandb" / name
    folder.mkdir(parents=True)
    (sweep / str(job)).mkdir(parents=True, exist_ok=True)
    (sweep / str(job) / "run.json").write_text(json.dumps({"id": name.rpartition("-")[2]}))
    if synced:
        (folder / "run-abcd1234.wandb.synced").touch()


def test_the_end_names_one_command_for_all(tmp_path):
    sweep = tmp_path / "a sweep"
    sweep.mkdir()
    assert command(sweep) is None
    segment(sweep, 0, "run-20261122_100000-abcd1234")
    segment(sweep, 1, "offline-run-20261122_100000-abcd1235", synced=True)
    assert command(sweep) is None
    segment(sweep, 2, "offline-run-20261122_100000-abcd1236")
    assert command(sweep) == f"wandb sync '{sweep}'/*/wandb/offline-run-*"
    segment(sweep, 2, "offline-run-20261122_110000-abcd1236")
    assert command(sweep) == f"python -m anchorlab.training.loggers.upload '{sweep}'"


def test_where_wandb_dir_holds_them_the_sweeps_own_runs_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "all"))
    sweep, place = tmp_path / "sweep", tmp_path / "all"
    sweep.mkdir()
    segment(tmp_path / "another", 0, "offline-run-20261122_100000-another1", place=place)
    assert command(sweep) is None
    segment(sweep, 0, "offline-run-20261122_100000-abcd1234", place=place)
    assert command(sweep) == f"wandb sync {place}/wandb/offline-run-*-abcd1234"
    segment(sweep, 1, "offline-run-20261122_100000-abcd1235", place=place)
    assert command(sweep) == f"wandb sync {place}/wandb/offline-run-*-{{abcd1234,abcd1235}}"
    segment(sweep, 1, "offline-run-20261122_110000-abcd1235", place=place)
    assert command(sweep) == f"python -m anchorlab.training.loggers.upload {sweep}"
