"""train.py while its data goes bad: the run stops with one sentence and an intact checkpoint, or goes on and says so.

Real runs, real broken files and real dead processes. The images are broken as soon as the first epoch is done.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.training.conftest import command

EPOCHS = 12  # enough for the second one to meet the broken file, however busy the machine


@pytest.fixture
def images(small, tmp_path) -> tuple[str, Path]:
    """A data set of one's own, to break: the override that names it, and the folder of its training images."""
    root = Path(small[-1].removeprefix("data.root="))
    if not list(root.glob("*/train")):
        made = subprocess.run(command(*small, "debug=one_step"), cwd=tmp_path, capture_output=True, check=False)
        assert made.returncode == 0, made.stderr
    shutil.copytree(root, tmp_path / "data")
    (folder,) = (tmp_path / "data").glob("*/train")
    return f"data.root={tmp_path / 'data'}", folder


def run_and(act: Callable[[int], None], arguments: list[str], cwd: Path) -> tuple[int, str, str]:
    """Exit code, output and errors of a run to which `act(process id)` is done when its first epoch is over."""
    with subprocess.Popen(arguments, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        before = []
        for line in process.stdout:
            before.append(line)
            if line.startswith("epoch 1/"):
                act(process.pid)
        _, errors = process.communicate()
        return process.returncode, "".join(before), errors


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_corrupt_image_stops_the_run_and_leaves_its_checkpoint(small, images, tmp_path):
    root, folder = images
    bad = sorted(folder.iterdir())[3]
    settings = (*small, root, f"trainer.epochs={EPOCHS}", "hydra.run.dir=run")
    code, _, errors = run_and(lambda pid: bad.write_bytes(bad.read_bytes()[:900]), command(*settings), tmp_path)
    assert code == 2
    assert len(errors.strip().splitlines()) == 1
    for words in ("error: ", bad.name, "truncated", "data.on_error=skip"):
        assert words in errors
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert content["status"] == "failed"
    assert bad.name in content["reason"]
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] >= 3


def test_a_corrupt_image_is_skipped_counted_and_listed(small, images, tmp_path):
    root, folder = images
    bad = sorted(folder.iterdir())[3]
    settings = (*small, root, f"trainer.epochs={EPOCHS}", "data.on_error=skip", "data.workers=1", "hydra.run.dir=run")
    code, output, errors = run_and(lambda pid: bad.unlink(), command(*settings), tmp_path)
    assert code == 0, errors
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
def test_a_killed_loading_process(on_error, code, small, images, tmp_path):
    def kill_workers(pid: int) -> None:
        for child in children(pid):
            os.kill(child, signal.SIGKILL)

    settings = (*small, images[0], f"trainer.epochs={EPOCHS}", f"data.on_error={on_error}", "data.workers=1")
    done, output, errors = run_and(kill_workers, command(*settings, "hydra.run.dir=run"), tmp_path)
    assert done == code, errors
    assert "Traceback" not in errors
    if on_error == "raise":
        assert "was killed" in errors
        assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 3
    else:
        assert f"epoch {EPOCHS}/{EPOCHS}" in output
