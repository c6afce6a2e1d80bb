"""Runs that are stopped, killed or out of disk, and resumed: they end where the uninterrupted run ends, bit for bit."""

import contextlib
import json
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anchorlab.cli.overrides import check_overrides
from anchorlab.errors import SettingError
from anchorlab.runs.files import FolderLock
from anchorlab.runs.record import read_run
from anchorlab.training.resume import position
from tests.training.endings import assert_readable, assert_same_end, checkpoint, rows
from tests.training.processes import ROOT, Forker, Running

CONFIGS = Path(__file__).parents[2] / "conf"
HARD = (
    "trainer.epochs=3",
    "augment=strong",
    "callbacks=ema",
    "callbacks.pictures.images=0",
    "logger=csv",
    "data.val_batch_size=1",  # several batches, for a signal to come between
)
EVERY_STEP = "trainer.checkpoint_every=0"


def steps(folder: Path) -> int:
    """Rows of training steps written so far."""
    return sum(row.get("train/loss", "") != "" for row in rows(folder))


@pytest.fixture(scope="module")
def whole(small, forker, tmp_path_factory) -> Path:
    """The folder of a run of three epochs of three steps that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    done = forker.run(folder, *small, *HARD, "hydra.run.dir=run")
    assert done.code == 0, done.err
    return folder / "run"


def within_an_epoch(folder: Path) -> bool:
    return steps(folder) >= 4  # one step into the second


def before_the_first_figures(folder: Path) -> bool:
    return steps(folder) >= 3  # all of the first epoch; its validation comes next


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "code", "group", "moment", "more"),
    [
        (signal.SIGINT, 130, True, within_an_epoch, ("data.workers=1",)),  # Ctrl-C reaches the loader's workers, too
        (signal.SIGTERM, 143, True, before_the_first_figures, ("data.workers=1",)),
        (signal.SIGUSR1, 138, False, within_an_epoch, ()),
    ],
)
def test_signal_leaves_a_checkpoint_from_which_the_run_goes_on(
    number, code, group, moment, more, small, forker: Forker, whole, tmp_path
):
    running = forker.start(tmp_path, *small, *HARD, *more, "hydra.run.dir=run")
    folder = tmp_path / "run"
    running.wait_until(lambda: moment(folder))
    running.send(number, group)
    assert running.wait() == code, running.err
    assert running.err.count("\n") == 2, running.err  # an empty line, and one sentence
    for words in (signal.Signals(number).name, "epoch", "train.py resume=run", "resume=auto"):
        assert words in running.err
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert checkpoint(folder)["global_step"] >= steps(folder) - 1  # of a validation, the step before is repeated

    resumed = forker.run(tmp_path, "resume=run")
    assert resumed.code == 0, resumed.err
    assert "goes on from step" in resumed.out
    assert resumed.err == ""
    assert_same_end(folder, whole)


@pytest.fixture(scope="module")
def broken(small, forker, tmp_path_factory) -> Path:
    """The folder of a run that a signal stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("broken")
    running = forker.start(folder, *small, *HARD, "hydra.run.dir=run")
    running.wait_until(lambda: within_an_epoch(folder / "run"))
    running.send(signal.SIGTERM)
    assert running.wait() == 143, running.err
    return folder / "run"


def test_same_command_goes_on_with_the_newest_unfinished_run(small, broken, whole, forker, tmp_path):
    today = tmp_path / "outputs" / "2026-11-22"
    for name, change in {
        "10-00-00": {},
        "11-00-00": {"created": "2099-01-01", "seed": 1},
        "12-00-00": {"created": "2099-01-01", "status": "finished"},
        "13-00-00": {"created": "2099-01-01", "command_hash": "another"},
        "14-00-00": {"created": "2000-01-01"},
    }.items():
        shutil.copytree(broken, today / name)
        record = json.loads((broken / "run.json").read_text())
        (today / name / "run.json").write_text(json.dumps(record | change))
    shutil.copytree(today / "10-00-00", today / "15-00-00")
    (today / "15-00-00" / "checkpoints" / "last.ckpt").unlink()

    done = forker.run(tmp_path, *small, *HARD, "resume=auto")
    assert done.code == 0, done.err
    assert "outputs/2026-11-22/10-00-00" in done.out
    assert "goes on from step" in done.out
    assert done.err == ""  # though the folder has been moved
    assert_same_end(today / "10-00-00", whole)
    again = forker.run(tmp_path, *small, *HARD, "resume=auto", "hydra.run.dir=outputs/2026-11-22/10-00-00")
    assert again.code == 0, again.err
    assert "nothing to do" in again.out


def test_same_command_starts_a_run_where_there_is_none(small, forker, tmp_path):
    done = forker.run(tmp_path, *small, "logger=csv", "debug=one_step", "resume=auto")
    assert done.code == 0, done.err
    assert "goes on" not in done.out
    (run,) = (tmp_path / "outputs").glob("*/*/run.json")
    assert "resume=auto" not in json.loads(run.read_text())["overrides"]


def test_folder_is_trained_in_by_one_process(small, broken, forker, tmp_path):
    shutil.copytree(broken, tmp_path / "run")
    lock = FolderLock(tmp_path / "run")
    assert lock.acquire()
    second = forker.run(tmp_path, "resume=run")
    assert second.code == 2
    assert second.err.count("\n") == 1
    assert "run is being trained by another process" in second.err
    lock.release()


def test_checkpoint_that_is_none_is_named(broken, tmp_path):
    shutil.copytree(broken, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"half")
    with pytest.raises(SettingError, match=r"last\.ckpt cannot be read"):
        position(tmp_path / "run")


@pytest.mark.long
def test_file_that_cannot_be_written_ends_the_run_and_leaves_the_checkpoint(small, forker, whole, tmp_path):
    running = forker.start(tmp_path, *small, *HARD, EVERY_STEP, "hydra.run.dir=run")
    folder = tmp_path / "run"
    running.wait_until(lambda: (folder / "checkpoints" / "last.ckpt").exists())
    resource.prlimit(running.number, resource.RLIMIT_FSIZE, (100_000, 100_000))  # no checkpoint fits any more
    assert running.wait() == 1
    assert running.err.count("\n") == 1, running.err
    for words in ("run cannot be written (File too large)", "is kept", "resume=run"):
        assert words in running.err
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    assert checkpoint(folder)["global_step"] >= 1
    resumed = forker.run(tmp_path, "resume=run")
    assert resumed.code == 0, resumed.err
    assert_same_end(folder, whole)


def test_full_disk_is_one_sentence(small, whole, tmp_path):
    """On a file system of its own, with room for two checkpoints and a half."""
    room = int(2.5 * (whole / "checkpoints" / "last.ckpt").stat().st_size)
    arguments = shlex.join([*small, *HARD, EVERY_STEP, f"hydra.run.dir={tmp_path / 'disk' / 'run'}"])
    train = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'train.py'))} {arguments}"
    (tmp_path / "disk").mkdir()
    script = f"mount -t tmpfs -o size={room} none {tmp_path / 'disk'} || exit 77; {train}; code=$?; "
    script += f"cp -r {tmp_path / 'disk' / 'run'} {tmp_path / 'kept'}; exit $code"
    done = subprocess.run(["unshare", "--mount", "--map-root-user", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode in (1, 77) and "error: " not in done.stderr:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot be written (No space left on device)" in done.stderr
    assert checkpoint(tmp_path / "kept")["global_step"] >= 1
    assert not list((tmp_path / "kept").rglob("*.tmp"))


def trace(folder: Path) -> set[tuple[str, int]]:
    """The files of a run and when each was last touched, those included that are just being written."""
    found = set()
    for path in [*folder.iterdir(), *folder.glob("*/*"), *folder.glob("*/.*")]:
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def changes(running: Running, folder: Path, limit: int | None = None) -> int:
    """Watch until `limit` changes of the folder were seen, or the process has ended; how many were."""
    seen, last = 0, trace(folder)

    def look() -> bool:
        nonlocal seen, last
        now = trace(folder)
        seen, last = seen + (now != last), now
        return limit is not None and seen >= limit

    running.wait_until(look)
    return seen


def killed_on_the_way(forker: Forker, folder: Path, config: dict, kills: int, most: int, draw: random.Random) -> int:
    """Train to the end in `folder`, killed up to `kills` times; how often it was.

    Each kill comes after a random number of up to `most` changes in the folder: a row of metrics.csv, a checkpoint
    begun, a checkpoint renamed, ... so that they are spread over a run's life however busy the machine is.
    """
    for killed in range(kills):
        running = forker.start(folder, config=config)
        changes(running, folder, draw.randint(1, most))
        running.send(signal.SIGKILL)
        assert running.wait() in (-signal.SIGKILL, 0), running.err
        assert_readable(folder)
        if (folder / "run.json").exists() and read_run(folder).status == "finished":
            return killed
    done = forker.run(folder, config=config)
    assert done.code == 0, done.err
    return kills


@pytest.mark.long
@pytest.mark.parametrize(
    ("more", "kills"),
    [
        (HARD, 14),
        (
            (
                *("trainer.max_steps=4", "trainer.accumulate=2", "augment=strong", "trainer.val_every=2"),
                *("refine=roi", "refine.lr_factor=2"),
            ),
            6,
        ),
    ],
)
def test_run_that_is_killed_again_and_again_ends_like_the_one_that_is_not(more, kills, small, forker, tmp_path):
    config = check_overrides("train", CONFIGS, [*small, "trainer.epochs=3", "logger=csv", *more, EVERY_STEP])
    whole = tmp_path / "whole"
    whole.mkdir()
    running = forker.start(whole, config=config)
    most = changes(running, whole) // 4
    assert running.code == 0, running.err
    draw = random.Random(0)
    while kills > 0:
        folder = tmp_path / str(kills)
        folder.mkdir()
        kills -= killed_on_the_way(forker, folder, config, kills, most, draw)
        assert_same_end(folder, whole)
