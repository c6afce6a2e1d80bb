"""Benchmark of start-up: seconds from `python train.py` to the first optimizer step, to --help and to a wrong key's
error; and from each other command to its first line and to its end.

Each is a process of its own, from its start to its end; the first step and a first line end theirs. The data of
train.py is the built-in one at its usual size, drawn before anything is timed; the other commands read a run of one
step on eight small images.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from uuid import uuid4

from benchmarks.measure import Options, Row, interleaved, parse, report, set_threads

ROOT = Path(__file__).parents[1]
SMALL = (
    "data.reader.num_train=8",
    "data.reader.num_val=2",
    "data.reader.image_size=[64,96]",
    "data.reader.sizes=[12,40]",
)
RUN_SETTINGS = ("logger=none", "trainer.max_steps=1", "trainer.limit_val_batches=1")
TO_FIRST_STEP = f"""
import multiprocessing, os, runpy, sys
from anchorlab.deferred import defer
defer()  # as the command does before it imports torch, which the hook needs
from torch.optim.optimizer import register_optimizer_step_post_hook
def end(*_):
    for process in multiprocessing.active_children():
        process.kill()  # loading processes look every five seconds whether they are alone, and keep stderr open
    os._exit(0)
register_optimizer_step_post_hook(end)
sys.argv[0] = {str(ROOT / "train.py")!r}
runpy.run_path(sys.argv[0], run_name="__main__")
sys.exit("no step was taken")
"""
NEW = "new-at-each-call"  # a folder of this name, in the commands below
IMPORTS = "from anchorlab.deferred import defer; defer(); import anchorlab.commands.train"


def run(arguments: list[str], folder: Path, expected: int = 0) -> str:
    """What the process wrote to stderr, after it left with the expected code."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stderr
    return done.stderr


def first_line(arguments: list[str], folder: Path) -> str:
    """The first line that the process writes to a terminal; it is ended there."""
    ours, terminal = os.openpty()
    with subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        with os.fdopen(ours) as screen:
            line = screen.readline()
            process.kill()
    assert line.strip(), arguments
    return line


def commands_on_a_run(folder: Path) -> dict[str, list[str]]:
    """The commands that read a run, by name, with a small one that is trained for them."""
    small, data = folder / "small", [*SMALL, "data=synthetic", f"data.root={folder / 'drawn-small'}"]
    run([str(ROOT / "train.py"), "backbone=tiny", *data, *RUN_SETTINGS, f"hydra.run.dir={small}"], folder)
    images = next(path.parent for path in (folder / "drawn-small").rglob("val/*"))
    new = folder / NEW
    return {
        "study.py": ["study.py", "backbone=tiny", *data, f"hydra.run.dir={new}"],
        "evaluate.py": ["evaluate.py", f"run={small}", f"hydra.run.dir={new}"],
        "propose.py": ["propose.py", f"run={small}", f"source={images}", f"output={new}"],
        "compare.py": ["compare.py", f"runs=[{small}]", f"output={new}"],
    }


def with_new_folder(words: Sequence[str]) -> list[str]:
    return [word.replace(NEW, uuid4().hex) for word in words]


def imported(folder: Path) -> list[Row]:
    """Seconds that modules of each package took to run while a training's modules were imported, most first."""
    seconds: dict[str, float] = defaultdict(float)
    for microseconds, module in re.findall(
        r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", run(["-X", "importtime", "-c", IMPORTS], folder)
    ):
        seconds[module.partition(".")[0]] += int(microseconds) / 1e6
    whole = sum(seconds.values())
    most = sorted(seconds, key=lambda name: -seconds[name])[:12]
    rest = whole - sum(seconds[name] for name in most)
    rows = [(name, seconds[name]) for name in most] + [("all others", rest)]
    return [{"package": name, "seconds": value, "share": value / whole} for name, value in rows]


def main(options: Options) -> None:
    set_threads(options.threads or len(os.sched_getaffinity(0)))
    repeats = options.num_repeats(5)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = ["data=synthetic", f"data.root={folder / 'drawn'}", *(SMALL if options.quick else ())]
        train = str(ROOT / "train.py")
        run([train, *data, *RUN_SETTINGS], folder)
        ways: dict[str, Callable[[], str]] = {
            "--help": partial(run, [train, "--help"], folder),
            "the sentence for a wrong key": partial(run, [train, "anchor.ratio=[1]"], folder, expected=2),
            "all modules of a training imported": partial(run, ["-c", IMPORTS], folder),
            "the first optimizer step": partial(run, ["-c", TO_FIRST_STEP, *data, *RUN_SETTINGS], folder),
        }
        for name, (program, *settings) in commands_on_a_run(folder).items():
            words = [str(ROOT / program), *settings]
            for end, of in ((", its first line", first_line), (", its end", run)):
                ways[name + end] = lambda of=of, words=words: of(with_new_folder(words), folder)
        timings = interleaved(ways, repeats)
        rows = [
            {"from the command to": name, "seconds": timing.median, "fastest": min(timing.seconds)}
            for name, timing in timings.items()
        ]
        packages = imported(folder)
    setting = {"layout": "auto", "precision": "auto", "repeats": repeats}
    report("start", "Seconds from the command to what a person waits for; built-in data.", rows, setting, options)
    claim = "Where the imports of a training take their time: each module's own, by package."
    report("start_imports", claim, packages, {**setting, "repeats": 1}, options)


if __name__ == "__main__":
    main(parse(__doc__))
