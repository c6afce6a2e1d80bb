"""Several processes train one run: the losses and recall of one process, no hang, and one of them writes.

Most start from the environment that torchrun or srun would give them, one is torchrun's own, one Lightning's.
"""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from anchorlab.training.processes import check_launch, check_slurm
from tests.training.conftest import ROOT
from tests.training.processes import Forker, Running, free_port

WORLDS = (1, 2, 3)
FIGURES = ("train/loss", "train/objectness", "train/box", "train/positives", "val/AR_1000", "val/recall_100")


@pytest.fixture(scope="module")
def sparse(tmp_path_factory) -> str:
    """A data set of 13 + 7 images, of which one for training and three for validation have boxes."""
    root = tmp_path_factory.mktemp("sparse")
    rng = np.random.default_rng(0)
    for split, count, every in (("train", 13, 13), ("val", 7, 3)):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for n in range(count):
            cv2.imwrite(str(root / "images" / split / f"{n}.png"), rng.integers(0, 255, (64, 96, 3), dtype=np.uint8))
            boxes = "0 0.4 0.5 0.3 0.5\n0 0.7 0.3 0.2 0.3\n" if n % every == 0 else ""
            (root / "labels" / split / f"{n}.txt").write_text(boxes)
    return str(root)


def settings(root: str, *more: str, trainer: str = "torchrun") -> tuple[str, ...]:
    small = ("data.long=96", "data.workers=0", "backbone.channels=32", "callbacks.pictures.images=0", "augment=flip")
    run = ("trainer.epochs=1", "trainer.threads=1", "trainer.log_every=1", "trainer.precision=32", "logger=csv")
    return ("data=yolo", f"data.root={root}", "data.batch_size=6", *small, f"trainer={trainer}", *run, *more)


def run_by(world: int, forker: Forker, folder: Path, root: str, *more: str) -> None:
    """Trains to the end into `folder/<world>`; one process as anybody starts it, several as torchrun does."""
    more = (*more, f"hydra.run.dir={world}")
    if world == 1:
        ended_well([forker.start(folder, *settings(root, *more, trainer="cpu"))])
    else:
        ended_well(forker.start_ranks(world, folder, *settings(root, *more)))


def ended_well(ranks: list[Running]) -> None:
    for rank in ranks:
        assert rank.wait() == 0, rank.err
        assert rank.err == ""


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def ranks_of_boxes(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "recall.npz") as arrays:
        return dict(arrays)


@pytest.mark.long
@pytest.mark.parametrize("more", [(), ("loss=paper", "sampler.num=3", "trainer.accumulate=2")])
def test_losses_and_weights_are_those_of_one_process(more, forker, sparse, tmp_path):
    for world in WORLDS:
        run_by(world, forker, tmp_path, sparse, *more)
    one = rows(tmp_path / "1")
    for world in WORLDS[1:]:
        several = rows(tmp_path / str(world))
        assert len(several) == len(one)
        for ours, theirs in zip(several, one, strict=True):
            assert ours["step"] == theirs["step"]
            for name in FIGURES:
                assert float(ours[name] or 0) == pytest.approx(float(theirs[name] or 0), rel=1e-5, abs=1e-6), name
        for key, value in weights(tmp_path / "1").items():
            torch.testing.assert_close(weights(tmp_path / str(world))[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("images", [(13, 7), (2, 2)])  # uneven last batches; fewer images than processes
def test_recall_of_the_same_weights_is_equal_bit_for_bit(images, forker, sparse, tmp_path):
    train, val = images
    fixed = (f"data.limit_train={train}", f"data.limit_val={val}", "optimizer.lr=1e-30", "augment=none")
    for world in WORLDS:
        run_by(world, forker, tmp_path, sparse, *fixed, f"data.val_batch_size={world}")  # one image at a time on each
    one = ranks_of_boxes(tmp_path / "1")
    assert one["index"].tolist() == list(range(val))
    for world in WORLDS[1:]:
        several = ranks_of_boxes(tmp_path / str(world))
        assert several.keys() == one.keys()
        assert all(np.array_equal(several[key], one[key]) for key in one)


def test_only_the_first_process_writes(forker, sparse, tmp_path):
    port, ranks = free_port(), []
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        ranks.append(forker.start_rank(rank, 2, port, tmp_path / str(rank), *settings(sparse, "data.limit_train=6")))
    ended_well(ranks)
    assert ranks[0].out.count("epoch 1/1") == 1
    assert ranks[1].out == ""
    assert len(list((tmp_path / "0" / "outputs").glob("*/*/run.json"))) == 1
    assert not list((tmp_path / "1").iterdir())


def slurm(forker: Forker, world: int, folder: Path, *arguments: str) -> list[Running]:
    """Processes that find in their environment what srun puts there, in a job of salloc."""
    job = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "interactive",
        "SLURM_NTASKS": str(world),
        "SLURM_NTASKS_PER_NODE": str(world),
        "SLURM_NNODES": "1",
        "SLURM_STEP_NUM_TASKS": str(world),
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
        "SLURM_CPUS_PER_TASK": "1",
        "MASTER_PORT": str(free_port()),
    }
    tasks = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(world)]
    return [forker.start(folder, *arguments, environment=job | task) for task in tasks]


@pytest.mark.long
def test_slurm_job_stops_before_its_time_is_up_and_goes_on_when_requeued(forker, sparse, tmp_path):
    arguments = settings(sparse, "trainer.epochs=3", "resume=auto", trainer="slurm")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    ended_well(slurm(forker, 2, whole, *arguments))
    first, second = slurm(forker, 2, broken, *arguments)
    first.wait_until(lambda: any(len(rows(path.parent)) >= 4 for path in broken.glob("outputs/*/*/metrics.csv")))
    second.send(signal.SIGUSR1)  # all agree, whichever is told
    assert (first.wait(), second.wait()) == (138, 0), first.err + second.err
    assert "SIGUSR1" in first.err
    assert second.err == ""

    ended_well(slurm(forker, 2, broken, *arguments))
    (ours,), (theirs,) = broken.glob("outputs/*/*"), whole.glob("outputs/*/*")
    assert json.loads((ours / "run.json").read_text())["resumed"] == 1
    for key, value in weights(theirs).items():
        assert torch.equal(weights(ours)[key], value), key


JOB = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2"}


@pytest.mark.parametrize(
    ("environment", "processes", "nodes", "words"),
    [
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}, 1, 1, "torchrun started 2 processes"),
        (JOB | {"SLURM_STEP_NUM_TASKS": "4"}, 1, 1, "use trainer=slurm"),
        (JOB | {"SLURM_STEP_NUM_TASKS": "3"}, 4, 2, "give srun itself no other numbers"),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}, 4, 1, "--ntasks-per-node"),
        (JOB | {"SLURM_JOB_NAME": "interactive"}, 4, 2, "write srun before the command"),
        ({}, 4, 2, "trainer.num_nodes=2"),
    ],
)
def test_launch_that_does_not_fit_the_settings_is_refused(environment, processes, nodes, words, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def check() -> None:
        check_slurm()
        check_launch(processes, nodes)

    with pytest.raises(ValueError, match=words):
        check()


def test_batch_script_without_srun_is_one_sentence(forker, sparse, tmp_path):
    arguments = settings(sparse, "trainer.accelerator=cpu", trainer="slurm")
    running = forker.start(tmp_path, *arguments, environment=JOB)
    assert running.wait() == 2
    assert "write srun before the command" in running.err
    assert running.err.count("\n") == 1


def test_shell_of_a_job_trains_in_one_process(forker, sparse, tmp_path):
    """Lightning alone would take the shell for one of the job's four tasks, and wait for the others."""
    running = forker.start(tmp_path, *settings(sparse, "debug=one_step", trainer="cpu"), environment=JOB)
    ended_well([running])


@pytest.mark.long
def test_torchrun_itself_and_one_run_of_wandb(small, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SERVICE", f"3-1-unix-{tmp_path}/ended")  # as a parent that used W&B leaves it
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = (*small, "trainer=torchrun", "trainer.accelerator=cpu", "trainer.threads=1", "trainer.epochs=1")
    script = [str(ROOT / "train.py"), *arguments, "logger=wandb", "hydra.run.dir=run"]
    done = subprocess.run([*start, *script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == 1
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 1
    assert len(ranks_of_boxes(tmp_path / "run")["image_ids"]) == 7


@pytest.mark.long
def test_lightning_starts_the_other_processes_where_nobody_did(small, train, tmp_path):
    done = train(*small, "trainer=ddp_cpu", "trainer.threads=1", "trainer.epochs=1", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("epoch 1/1") == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


def test_batch_that_cannot_be_divided_is_refused(small, forker, tmp_path):
    running = forker.run(tmp_path, *small, "data.batch_size=5", "trainer=ddp_cpu", "trainer.threads=1")
    assert running.code == 2
    assert "data.batch_size=5" in running.err
    assert "Traceback" not in running.err
