"""A small data set and the command that trains on it: real processes, as people start them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.training.processes import Forker

for _inherited in (signal.SIGINT, signal.SIGHUP):  # a shell's background jobs and nohup hand them down ignored
    if signal.getsignal(_inherited) == signal.SIG_IGN:
        signal.signal(_inherited, signal.SIG_DFL)

ROOT = Path(__file__).parents[2]
SMALL = (
    "data.reader.num_train=12",
    "data.reader.num_val=7",
    "data.reader.image_size=[64,96]",
    "data.reader.sizes=[12,40]",
    "data.reader.boxes_per_image=[1,3]",
    "data.long=96",
    "data.batch_size=4",
    "data.workers=0",
    "backbone.channels=32",
    "trainer.epochs=2",
    "trainer.threads=1",
    "trainer.log_every=1",
    "callbacks.pictures.images=0",
)

Train = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> tuple[str, ...]:
    """Overrides for a run of seconds; its data is drawn once for all tests."""
    return (*SMALL, f"data.root={tmp_path_factory.mktemp('synthetic')}")


@pytest.fixture(scope="session")
def forker(tmp_path_factory) -> Iterator[Forker]:
    """Training processes that start at once."""
    forker = Forker(tmp_path_factory.mktemp("forker"))
    yield forker
    forker.close()


@pytest.fixture
def train(tmp_path) -> Train:
    """Runs train.py in an empty folder, without W&B unless asked for."""
    return partial(run_train, tmp_path)


def run_train(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    # Tests of the logger leave the address of a W&B service of this process behind.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | more
    return subprocess.run(command(*arguments), cwd=folder, env=environment, capture_output=True, text=True, check=False)


def command(*arguments: str) -> list[str]:
    chosen = () if any(argument.startswith("logger=") for argument in arguments) else ("logger=csv",)
    return [sys.executable, str(ROOT / "train.py"), *arguments, *chosen]
