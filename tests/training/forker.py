"""Starts training as often as asked, in processes that need not import torch again.

    python -m tests.training.forker

Reads one JSON object a line and forks; answers with the new process's number, and writes its exit code to
`<output>.code` when it has ended. An order {"arguments": [...]} runs train.py with them; {"config": {...}} runs
`train` in the order's folder, resuming what is there: a loop of many kills need not compose the same config each
time. Its "environment" adds variables; "script" is the root script that runs instead of train.py; "crash_at" is the
number of the crash point at which it ends (tests/faults/crash_points.py), and has all of them listed in
`<output>.points`.
"""

import json
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import albumentations  # noqa: F401
import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from wandb.sdk.data_types._private import MEDIA_TMP

from anchorlab.commands.train import run_settings
from anchorlab.plots.boxes import recall_figure
from anchorlab.training.loggers import hub
from anchorlab.training.processes import process_rank
from anchorlab.training.resume import LAST
from tests.faults.crash_points import CrashPoints

ROOT = Path(__file__).parents[2]
outputs: dict[int, str] = {}


def main() -> None:
    recall_figure({"IoU": (np.array([1, 2]), np.array([0.0, 1.0]))}, "").canvas.draw()  # the first figure finds fonts
    signal.signal(signal.SIGCHLD, reap)
    while line := sys.stdin.readline():
        order = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # not before its number is known
        child = os.fork()
        if child == 0:
            become(order)
            return
        outputs[child] = order["output"]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        print(child, flush=True)


def become(order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os.setpgid(0, 0)  # a group of its own, as a shell gives it
    os.environ.update(order["environment"])
    rank_zero_only.rank = process_rank()  # Lightning has looked when it was imported
    hub.START_SECONDS = hub.FINISH_SECONDS = 60  # on a machine with more to do than this
    MEDIA_TMP.name = tempfile.mkdtemp(
        "wandb-media", dir=Path(order["output"]).parent
    )  # else the first to end removes it
    os.chdir(order["folder"])
    for stream, ending in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{order['output']}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if order["crash_at"] is not None:
        CrashPoints(Path.cwd(), order["crash_at"], Path(f"{order['output']}.points"))
    if "arguments" in order:
        script = str(ROOT / f"{order['script']}.py")
        sys.argv = [script, *order["arguments"]]
        runpy.run_path(script, run_name="__main__")
    else:
        resume = "." if LAST.is_file() else None
        run_settings({**order["config"], "resume": resume}, Path.cwd(), ())


def reap(*_: object) -> None:
    while outputs:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            return
        code = Path(f"{outputs.pop(child)}.code")
        code.with_suffix(".tmp").write_text(str(os.waitstatus_to_exitcode(status)))
        code.with_suffix(".tmp").rename(code)


if __name__ == "__main__":
    main()
