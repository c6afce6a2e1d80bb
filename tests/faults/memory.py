"""Memory of a long training with pictures: how much the process holds after each of several hundred epochs.

    python -m tests.faults.memory [epochs] [overrides...]

Trains on a few small built-in images, in a temporary folder, and prints a table of ten rows: MiB in use (RSS) and what
was live by Python's and glibc's own counts.
"""

import ctypes
import gc
import json
import resource
import sys
import tempfile
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from anchorlab.cli.overrides import check_overrides
from anchorlab.commands.train import train
from anchorlab.installation import CONFIGS
from tests.training.conftest import SMALL

PICTURES = ("data.reader.num_train=4", "data.reader.num_val=4", "callbacks.pictures.images=2", "logger=csv")
ROWS = 10
MIB = 2**20
MALLINFO = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
"""The numbers of glibc's struct mallinfo2."""


class Watch(Callback):
    """Notes after each validation what the process holds: a JSON line with MiB in use, MiB live, Python objects."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        row = {"epoch": trainer.current_epoch + 1, "rss": in_use(), "live": live(), "objects": len(gc.get_objects())}
        with self.path.open("a") as file:
            file.write(f"{json.dumps(row)}\n")


def in_use() -> float:
    """MiB of physical memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MIB


def live() -> float:
    """MiB that glibc has given out and not got back."""

    class Mallinfo2(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t) for name in MALLINFO]

    count = ctypes.CDLL(None).mallinfo2
    count.restype = Mallinfo2
    found = count()
    return (found.uordblks + found.hblkhd) / MIB


def main(epochs: int, *overrides: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "memory.jsonl")
        watch = ("+callbacks.watch._target_=tests.faults.memory.Watch", f"+callbacks.watch.path={log}")
        words = [*SMALL, *PICTURES, f"trainer.epochs={epochs}", f"data.root={scratch}/data", *watch, *overrides]
        folder = Path(scratch, "run")
        folder.mkdir()
        train(check_overrides("train", CONFIGS, words), folder)
        rows = [json.loads(line) for line in log.read_text().splitlines()]
    print("epoch  MiB in use  MiB live  Python objects")
    for row in [rows[0], *rows[max(1, epochs // ROWS) - 1 :: max(1, epochs // ROWS)]]:
        print(f"{row['epoch']:5}  {row['rss']:10.0f}  {row['live']:8.1f}  {row['objects']:14,}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300, *sys.argv[2:])
