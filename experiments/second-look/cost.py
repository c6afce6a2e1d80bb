"""What a second look costs: a training step and proposing for one image, with and without it, in turn in one process.

python experiments/second-look/cost.py [long side in pixels] [overrides of train.py]

Seconds are of the processor, of one thread, so that other work on the machine counts little; medians.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anchorlab.build import build_network
from anchorlab.cli.overrides import check_overrides
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.samplers import seeded

CONFIGS = Path(__file__).parents[2] / "conf"
RECIPE = ("experiment=recommended", "data.root=nowhere", "coder=delta", "backbone.weights=none")
IMAGES, BOXES, TURNS = 4, 15, 7


class Work:
    """A network, and a batch of noise with boxes of 12 to 110 pixels."""

    def __init__(self, side: int, overrides: list[str]) -> None:
        torch.manual_seed(0)
        config = check_overrides("train", CONFIGS, [*RECIPE, *overrides])
        self.network: RegionProposalNetwork = build_network(config).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW([p for p in self.network.parameters() if p.requires_grad], 1e-5)
        size = (side * 3 // 4, side)
        self.images = torch.randint(0, 256, (IMAGES, 3, *size), dtype=torch.uint8)
        self.sizes = torch.tensor([size] * IMAGES)
        self.boxes = [_boxes(torch.tensor(size[::-1])) for _ in range(IMAGES)]

    def step(self, turn: int) -> None:
        self.network.train()
        inputs = self.network.prepare(self.images, self.sizes).contiguous(memory_format=torch.channels_last)
        ignore = [torch.zeros(BOXES, dtype=torch.bool)] * IMAGES
        generators = [seeded(turn, image) for image in range(IMAGES)]
        losses = self.network.loss(self.network.pending(inputs), self.boxes, ignore, self.sizes, generators)
        self.optimizer.zero_grad()
        losses.total.backward()
        self.optimizer.step()

    @torch.no_grad()
    def propose(self, turn: int) -> None:
        self.network.eval()
        inputs = self.network.prepare(self.images[:1], self.sizes[:1]).contiguous(memory_format=torch.channels_last)
        self.network.propose(self.network(inputs), self.sizes[:1])


def _boxes(limits: Tensor) -> Tensor:
    sides = torch.exp(torch.empty(BOXES, 2).uniform_(2.5, 4.7))
    corners = torch.rand(BOXES, 2) * (limits - sides)
    return torch.cat((corners, corners + sides), dim=1)


def seconds(calls: list[Callable[[int], Any]]) -> list[float]:
    """The median of each over its turns; the first turn only warms up."""
    spent: list[list[float]] = [[] for _ in calls]
    for turn in range(TURNS + 1):
        for call, own in zip(calls, spent, strict=True):
            started = time.process_time()
            call(turn)
            own.append(time.process_time() - started)
    return [statistics.median(own[1:]) for own in spent]


def main() -> None:
    torch.set_num_threads(1)
    side, *overrides = sys.argv[1:] or ["416"]
    plain, refined = Work(int(side), []), Work(int(side), ["refine=roi", *overrides])
    for name, calls in (("step", [plain.step, refined.step]), ("image", [plain.propose, refined.propose])):
        without, with_it = seconds(calls)
        print(f"{name}: {1000 * without:.0f} ms, with a second look {1000 * with_it:.0f} ms: x {with_it / without:.2f}")


if __name__ == "__main__":
    main()
