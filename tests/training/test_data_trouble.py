"""train.py while its data goes bad: the run stops with one sentence and an intact checkpoint, or goes on and says so.

Real runs, real broken files and real dead processes. The images are broken in the second of three epochs, by a
callback within the run.
"""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from tests.training.conftest import command

pytestmark = pytest.mark.long

EPOCHS = 3


@pytest.fixture
def images(small, tmp_path) -> tuple[str, Path]:
    """A data set of one's own, to break: the override that names it, and the folder of its training images."""
    root = f"data.root={tmp_path / 'data'}"
    made = subprocess.run(command(*small, root, "debug=one_step"), cwd=tmp_path, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    (folder,) = (tmp_path / "data").glob("*/train")
    return root, folder


def breaking(what: str, path: Path | None = None) -> list[str]:
    """Overrides that add a callback of tests/training/breaking.py."""
    added = [f"+callbacks.breaking._target_=tests.training.breaking.{what}"]
    return added if path is None else [*added, f"+callbacks.breaking.path={path}"]


def test_a_corrupt_image_stops_the_run_and_leaves_its_checkpoint(small, images, train, tmp_path):
    root, folder = images
    bad = sorted(folder.iterdir())[3]
    done = train(*small, root, f"trainer.epochs={EPOCHS}", "hydra.run.dir=run", *breaking("Truncate", bad))
    errors = done.stderr
    assert done.returncode == 2
    assert len(errors.strip().splitlines()) == 1
    for words in ("error: ", bad.name, "truncated", "data.on_error=skip"):
        assert words in errors
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert content["status"] == "failed"
    assert bad.name in content["reason"]
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] >= 3


def test_a_corrupt_image_is_skipped_counted_and_listed(small, images, train, tmp_path):
    root, folder = images
    bad = sorted(folder.iterdir())[3]
    settings = (*small, root, f"trainer.epochs={EPOCHS}", "data.on_error=skip", "data.workers=1", "hydra.run.dir=run")
    done = train(*settings, *breaking("Remove", bad))
    output, errors = done.stdout, done.stderr
    assert done.returncode == 0, errors
    assert f"epoch {EPOCHS}/{EPOCHS}" in output
    assert "left out" in output
    assert f"1 problem: {tmp_path}/run/problems.txt" in output
    assert errors.count(bad.name) == 1  # said once, not in every epoch
    (line,) = (tmp_path / "run" / "problems.txt").read_text().splitlines()
    assert bad.name in line
    assert "No such file" in line
    timings = json.loads((tmp_path / "run" / "run.json").read_text())["timings"]
    assert 0 < timings["data_wait_share"] < 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the loading processes in Linux's /proc")
@pytest.mark.parametrize(("on_error", "code"), [("raise", 1), ("skip", 0)])
def test_a_killed_loading_process(on_error, code, small, images, train, tmp_path):
    settings = (*small, images[0], f"trainer.epochs={EPOCHS}", f"data.on_error={on_error}", "data.workers=1")
    done = train(*settings, "hydra.run.dir=run", *breaking("KillChildren"))
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if on_error == "raise":
        assert "was killed" in done.stderr
        assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 3
    else:
        assert f"epoch {EPOCHS}/{EPOCHS}" in done.stdout
