"""Checkpoint callbacks: write whole files only, at moments from which training can resume exactly.

`best.ckpt` holds the highest AR@100, `last.ckpt` the state to go on from. Their content is Lightning's, tensors and
plain data only.
"""

import hashlib
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from anchorlab.errors import SettingError
from anchorlab.rpn.samplers import seeded
from anchorlab.runs.files import write_whole
from anchorlab.training.loggers.hub import loggers_of
from anchorlab.training.processes import this_machine
from anchorlab.training.stopping import Stopped, StopRequest


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it there.

    Lightning's own goes through the system's temporary folder, and where that is another file system the last
    step is a copy, which a kill or a full disk cuts short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getbuffer())


class _Checkpoint(ModelCheckpoint):
    """Lightning's, written after each epoch under a fixed name."""

    def __init__(self, folder: Path, name: str, **more: Any) -> None:
        super().__init__(folder, name, save_on_train_epoch_end=True, enable_version_counter=False, **more)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Where the run's folder has been moved since, Lightning would forget the best score."""
        super().load_state_dict(_moved(state_dict, str(self.dirpath)))


class BestCheckpoint(_Checkpoint):
    """best.ckpt: the validation with the highest `metric`."""

    def __init__(self, folder: Path, metric: str) -> None:
        super().__init__(folder, "best", monitor=f"val/{metric}", mode="max")


class LastCheckpoint(_Checkpoint):
    """last.ckpt: after every epoch, before every validation, every `minutes` between, and when a stop is asked for.

    Within an epoch it is written when a batch is about to start: of the step before, everything is then done and
    logged. All processes write and stop at the same step, whichever of them got the signal.

    Args:
        folder: where it is written.
        minutes: at most so long without a checkpoint while an epoch runs; None: only the other occasions.
        stop: where signals arrive.
        resume: the run's folder that this process resumes; all processes of a run must mean the same.

    Raises:
        Stopped: in the middle of an epoch or a validation, with a checkpoint to go on from where a step was made.
    """

    def __init__(self, folder: Path, minutes: float | None, stop: StopRequest, resume: str | None = None) -> None:
        super().__init__(folder, "last")
        self._resume = resume
        self._minutes = minutes
        self._stop = stop
        self._saved_at = time.monotonic()
        self._on_disk = False  # a state of this run, from which it would go on

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if dist.is_available() and dist.is_initialized():
            _check_same_start(self._resume)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._saved_at = time.monotonic()
        self._stop.be_patient()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loggers_of(trainer).epoch_begins()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return  # gradients on their way to an optimizer step are in no checkpoint
        due = self._minutes is not None and time.monotonic() - self._saved_at >= 60 * self._minutes
        due, stop = _agreed(trainer, due, self._stop.signal)
        # Between epochs there is one already.
        if batch_idx > 0 and (due or stop or _validates_next(trainer, batch_idx)):
            self._write(trainer)
        if stop:
            raise Stopped(stop)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._written(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop.be_patient()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **more: Any) -> None:
        """A validation is repeated as a whole, from the checkpoint before it."""
        if self._on_disk:
            _, stop = _agreed(trainer, False, self._stop.signal)
            if stop:
                raise Stopped(stop)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lightning has counted the batch that is about to start; the run that goes on has to begin with it."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        if progress["current"]["ready"] > progress["current"]["completed"]:
            for count in (progress["current"], progress["total"]):
                count["ready"] = count["completed"]
            progress["is_last_batch"] = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._on_disk = True

    def _write(self, trainer: Trainer) -> None:
        assert self.dirpath is not None
        trainer.save_checkpoint(Path(self.dirpath, "last.ckpt"))
        self._written(trainer)

    def _written(self, trainer: Trainer) -> None:
        self._on_disk, self._saved_at = True, time.monotonic()
        loggers_of(trainer).checkpointed()


class SeedOfTheStep(Callback):
    """Seeds torch's global generator anew before each batch, from (seed, step, process).

    Layers that draw (dropout, stochastic depth) then draw the same in a run that was broken off and resumed.
    Everything of ours has generators of its own.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        generator = seeded(self.seed, trainer.fit_loop.total_batch_idx, trainer.global_rank)
        torch.manual_seed(generator.initial_seed())


def _check_same_start(resume: str | None) -> None:
    """Let all processes see what each of them resumes.

    Raises:
        SettingError: on all of them, where it is not the same.
    """
    found: list[Any] = [None] * dist.get_world_size()
    path = None if resume is None else Path(resume, "checkpoints", "last.ckpt")
    dist.all_gather_object(found, (this_machine(), resume, path and _digest(path)))
    host, folder, digest = found[0]
    for rank, (other_host, other_folder, other_digest) in enumerate(found):
        if (other_folder is None, other_digest) != (folder is None, digest):
            first, other = (where or "no run" for where in (folder, other_folder))
            what = f"process 0 ({host}) resumes {first} and process {rank} ({other_host}) {other}"
            if first == other:
                what = f"{first} holds another checkpoint for process {rank} ({other_host}) than for process 0 ({host})"
            raise SettingError(f"{what}: start the command in a folder that all machines share")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _agreed(trainer: Trainer, due: bool, stop: int) -> tuple[bool, int]:
    """What any process wants, all do: whether to write, and the signal to stop for (0: none)."""
    if trainer.world_size == 1:
        return due, stop
    wishes = torch.tensor([int(due), stop], device=trainer.strategy.root_device)
    due_somewhere, highest = trainer.strategy.reduce(wishes, reduce_op="max").tolist()  # pyright: ignore
    return bool(due_somewhere), int(highest)


def _validates_next(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the optimizer step that begins with this batch is the last one before a validation."""
    every = trainer.check_val_every_n_epoch
    assert every is not None
    last_step = batch_idx + trainer.accumulate_grad_batches >= trainer.num_training_batches
    return last_step and (trainer.current_epoch + 1) % every == 0


def _moved(state: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """ModelCheckpoint's state with its paths in `folder`."""

    def here(path: str) -> str:
        return str(Path(folder, Path(path).name)) if path else path

    paths = {key: here(state[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
    scores = {here(path): score for path, score in state["best_k_models"].items()}
    return {**state, **paths, "best_k_models": scores, "dirpath": folder}
