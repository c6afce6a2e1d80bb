"""What an averaged network is, by a training whose weights are known after every step."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from anchorlab.training.callbacks.ema import MovingAverage

DECAY = 0.8


class Counting(LightningModule):
    """After step n its weight is n, and so is its counter."""

    counter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64))

    def training_step(self, batch: Tensor) -> Tensor:
        self.counter += 1
        return -self.weight

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1)


@pytest.mark.parametrize("steps", [1, 5, 60])
def test_the_average_of_a_short_run_is_over_its_last_steps(steps):
    module = Counting()
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[MovingAverage(DECAY)], logger=False, enable_checkpointing=False
    )
    trainer.fit(module, DataLoader(TensorDataset(torch.zeros(60, 1))))

    average = 1.0  # the first update takes the weights as they are
    for n in range(1, steps):
        left = min(DECAY, (1 + n) / (10 + n))
        average = left * average + (1 - left) * (n + 1)
    assert module.weight.item() == pytest.approx(average, rel=1e-6)
    assert module.counter.item() == steps
    assert steps - average < 1 / (1 - DECAY)
