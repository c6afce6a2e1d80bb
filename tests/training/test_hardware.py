"""What a process is told before it computes anything."""

import subprocess
import sys

import torch

from anchorlab.cli.overrides import check_overrides
from anchorlab.commands.train import train
from tests.training.conftest import ROOT, SMALL

CONFIGS = ROOT / "conf"

# Two threads; every element goes through one multiplication, and half of them through the thread that was started.
SMALLEST = """
import torch
from anchorlab.training.hardware import flush_denormals
torch.set_num_threads(2)
{first}
tiny = torch.full((2_000_000,), 1e-30) * 1e-9
print((tiny == 0).float().mean().item())
"""


def share_of_zeros(first: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", SMALLEST.format(first=first)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_denormals_are_zero_in_every_thread():
    assert share_of_zeros("") == 0
    assert share_of_zeros("flush_denormals()") == 1


def test_training_flushes_denormals(tmp_path):
    torch.set_flush_denormal(False)
    overrides = [*SMALL, f"data.root={tmp_path / 'drawn'}", "trainer.max_steps=1", "logger=none"]
    train(check_overrides("train", CONFIGS, overrides), tmp_path / "run")
    assert (torch.tensor([1e-30]) * 1e-9).item() == 0
