"""LightningModule of the training loop: passes batches to the network and metrics to the log; holds no detection logic.

B images, G ground-truth boxes of one image, P proposals of one image.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from anchorlab.build import Config, build
from anchorlab.data.batch import Batch
from anchorlab.errors import RunError
from anchorlab.metrics.recall import ProposalRecall
from anchorlab.rpn.network import Losses, PendingPredictions, Predictions, RegionProposalNetwork
from anchorlab.rpn.proposals.nms import Proposals
from anchorlab.rpn.samplers import seeded
from anchorlab.training.trainer import TrainerSettings

TRAIN, VALIDATE = 0, 1  # streams of random numbers
POSITIVES, BOX_IOU, ANCHOR_IOU = "positives", "box_iou", "anchor_iou"


class NonFiniteLossError(RunError):
    """The loss became infinite or not a number: says in which step, on which images, after which metrics."""


class RPNModule(LightningModule):
    """Trains a RegionProposalNetwork and scores its proposals.

    Logs `train/{loss,objectness,box,positives,box_iou,lr,images_per_s}` by step (and the other terms of the loss, where
    there are any), `val/{loss,objectness,box,box_iou,anchor_iou}` and every metric of ProposalRecall (`val/recall_100`,
    `val/AR_1000`, ...) by epoch; of two stages those of the first, too (`val/stage1_AR_1000`).
    box_iou is the mean IoU of the boxes predicted at positive anchors with the objects they are for, anchor_iou that
    of the anchors themselves.

    Args:
        network: the network to train.
        optimizer: makes an optimizer of parameters.
        scheduler: makes a schedule of (optimizer, total_steps); one step of it is one optimizer step. None: the
            optimizer's learning rate throughout.
        seed: of the anchors that are sampled; with the epoch and the image it fixes them.
        channels_last: memory layout of weights and images.
        sampled_only: train on predictions that are computed for sampled anchors alone; the same loss for less.
        max_steps: optimizer steps after which training ends, where its epochs would not end before.
    """

    def __init__(
        self,
        network: RegionProposalNetwork,
        optimizer: Callable[[Iterable[Tensor]], Optimizer],
        scheduler: Callable[..., LRScheduler] | None = None,
        seed: int = 0,
        channels_last: bool = False,
        sampled_only: bool = True,
        max_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self.layout)  # pyright: ignore[reportCallIssue]
        self.recall = ProposalRecall()
        self.stage1_recall = ProposalRecall() if network.num_stages > 1 else None
        self.seed = seed
        self.sampled_only = sampled_only
        self.max_steps = max_steps
        self._make_optimizer = optimizer
        self._make_schedule = scheduler
        self.scored_step: int | None = None
        self._validation = _RunningMean()
        self._last_losses: dict[str, float] = {}
        self._step_ended = time.perf_counter()

    def forward(self, batch: Batch) -> Predictions:
        return self.network(self._images(batch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images = self._images(batch)
        predictions = self.network.pending(images) if self.sampled_only else self.network(images)
        losses = self._losses(predictions, batch, TRAIN)
        metrics = self._step_metrics(losses)
        self._refuse_non_finite(metrics, batch)
        self._log_step(metrics, len(batch.images))
        return losses.total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        predictions = self(batch)
        metrics = self._step_metrics(self._losses(predictions, batch, VALIDATE))
        self._validation.add({name: metrics[name] for name in metrics if name != POSITIVES}, len(batch.images))
        self.score(predictions, batch)

    def score(self, predictions: Predictions, batch: Batch) -> None:
        """Count the batch's proposals, taken back to original pixels, in `recall`."""
        _score(self.recall, self.propose(predictions, batch), batch)
        if self.stage1_recall is not None:
            _score(self.stage1_recall, self.network.propose_first_stage(predictions, batch.sizes), batch)

    def propose(self, predictions: Predictions, batch: Batch) -> list[Proposals]:
        """The proposals that are scored, in pixels of the network's input."""
        return self.network.propose(predictions, batch.sizes)

    def on_validation_epoch_end(self) -> None:
        self.scored_step = self.trainer.global_step
        metrics: dict[str, float] = self.recall.compute()
        if self.stage1_recall is not None:
            metrics |= {f"stage1_{name}": value for name, value in self.stage1_recall.compute().items()}
        metrics |= self._validation.result(self.trainer.strategy.reduce)
        # Every process logs the same metrics: checkpoints are chosen by them on each. Lightning would round to float32.
        self.log_dict({f"val/{name}": torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()})

    def on_validation_epoch_start(self) -> None:
        for recall in (self.recall, self.stage1_recall):
            if recall is not None:
                recall.reset()
        self._validation = _RunningMean()

    def on_train_epoch_start(self) -> None:
        self._step_ended = time.perf_counter()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The schedule is that of the run as it is now: it may have more steps than when the checkpoint was written."""
        for schedule in checkpoint.get("lr_schedulers", []):
            for length in ("total_steps", "_schedule_phases"):  # torch's OneCycleLR would bring its own back
                schedule.pop(length, None)

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer()
        if self._make_schedule is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = self._make_schedule(optimizer, steps if self.max_steps is None else min(steps, self.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _optimizer(self) -> Optimizer:
        """Of all parameters that train; those of a part with an `lr_factor` are a group of their own."""
        parts = [part for part in self.network.modules() if getattr(part, "lr_factor", 1) != 1]
        apart = {parameter for part in parts for parameter in part.parameters()}
        optimizer = self._make_optimizer([p for p in self.network.parameters() if p.requires_grad and p not in apart])
        for part in parts:
            group = [p for p in part.parameters() if p.requires_grad]
            optimizer.add_param_group({"params": group, "lr": part.lr_factor * optimizer.defaults["lr"]})
        return optimizer

    def _images(self, batch: Batch) -> Tensor:
        images = self.network.prepare(batch.images, batch.sizes)
        return images.contiguous(memory_format=self.layout)

    def _losses(self, predictions: Predictions | PendingPredictions, batch: Batch, stream: int) -> Losses:
        """This process's; their mean over the processes is the loss of the whole batch."""
        generators = self._generators(stream, batch)
        average = self._mean if self.trainer.world_size > 1 else None
        return self.network.loss(predictions, batch.boxes, batch.ignore, batch.sizes, generators, average)

    def _mean(self, values: Tensor) -> Tensor:
        """Over the processes; Lightning's strategy gives back the values themselves where there is one."""
        mean = self.trainer.strategy.reduce(values, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def _step_metrics(self, losses: Losses) -> dict[str, float]:
        """The whole batch's losses, positives per image and their IoU: a step waits for the device here alone, once.

        All processes see the same, so that all stop at a loss that is not finite.
        """
        positives = losses.num_positives.float().mean()
        metrics = {"loss": losses.total} | losses.terms
        metrics |= {POSITIVES: positives, BOX_IOU: losses.box_iou, ANCHOR_IOU: losses.anchor_iou}
        values = torch.stack([metric.detach() for metric in metrics.values()])
        return dict(zip(metrics, self._mean(values).tolist(), strict=True))

    def _generators(self, stream: int, batch: Batch) -> list[torch.Generator]:
        """Random numbers for each image, a function of (seed, epoch, its row in the data set) alone."""
        epoch = self.current_epoch if stream == TRAIN else 0
        return [seeded(self.seed, stream, epoch, int(row)) for row in batch.index]

    def _refuse_non_finite(self, metrics: dict[str, float], batch: Batch) -> None:
        if math.isfinite(metrics["loss"]):
            return
        now, before = _losses_of(metrics), self._last_losses
        raise NonFiniteLossError(
            f"the loss is not finite at step {self.global_step} (epoch {self.current_epoch}): now {_listed(now)}, "
            f"the step before {_listed(before) or 'none'}; images {', '.join(map(str, batch.image_ids))}. "
            f"A lower optimizer.lr, a longer scheduler.warmup or trainer.precision=32 usually helps"
        )

    def _log_step(self, metrics: dict[str, float], images: int) -> None:
        self._last_losses = _losses_of(metrics)
        now = time.perf_counter()
        rate = images * self.trainer.world_size / (now - self._step_ended)
        self._step_ended = now
        metrics = {name: metrics[name] for name in metrics if name != ANCHOR_IOU} | {
            "lr": self.optimizers().param_groups[0]["lr"],  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]
            "images_per_s": rate,
        }
        self.log_dict({f"train/{name}": value for name, value in metrics.items()}, batch_size=images)


def _score(recall: ProposalRecall, proposals: Sequence[Proposals], batch: Batch) -> None:
    assert batch.targets is not None, "recall is scored on batches that were not augmented"
    for row, (found, target) in enumerate(zip(proposals, batch.targets, strict=True)):
        boxes = batch.to_original(row, found.boxes)
        recall.update(int(batch.index[row]), boxes, found.scores, *target)


class _RunningMean:
    """Means of a few named metrics, weighted by images; repeats of a padded last batch weigh like the rest."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weight = 0

    def add(self, metrics: dict[str, float], weight: int) -> None:
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + weight * value
        self._weight += weight

    def result(self, reduce: Callable[..., Any]) -> dict[str, float]:
        """The means over all processes; `reduce(tensor, reduce_op="sum")` adds a tensor up over them."""
        names = sorted(self._sums)
        totals = torch.tensor([self._sums[name] for name in names] + [float(self._weight)])
        totals = reduce(totals, reduce_op="sum")
        return {name: float(total / totals[-1]) for name, total in zip(names, totals[:-1], strict=True)}


def _losses_of(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in (POSITIVES, BOX_IOU, ANCHOR_IOU)}


def _listed(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def build_module(config: Config, network: RegionProposalNetwork, trainer: TrainerSettings) -> RPNModule:
    return RPNModule(
        network,
        optimizer=build(config["optimizer"], "optimizer"),
        scheduler=build(config["scheduler"], "scheduler"),
        seed=config["seed"],
        channels_last=trainer.channels_last,
        sampled_only=trainer.sampled_only,
        max_steps=trainer.max_steps,
    )
