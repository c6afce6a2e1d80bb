"""How hard each term of a loss pulls before training: the gradient that it sends into what comes after the backbone.

A recipe that swaps a loss changes this balance without saying so; docs/recipes.md shows what follows.
Command: python docs/balance.py [as for train.py]
"""

import sys
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from torch import Tensor

from anchorlab.build import build_data, build_network
from anchorlab.cli.overrides import check_overrides
from anchorlab.rpn.network import Losses, RegionProposalNetwork
from anchorlab.rpn.variants import CascadeRPN
from anchorlab.training.preflight import fit_coder

CONFIGS = Path(__file__).parents[1] / "conf"
BATCHES = 4


def main(overrides: list[str]) -> None:
    config = check_overrides("train", CONFIGS, overrides)
    seed_everything(config["seed"], verbose=False)
    network, data = build_network(config), build_data(config)
    data.setup()
    fit_coder(config, data, network)
    norms: dict[str, list[float]] = {}
    for number, batch in zip(range(BATCHES), data.train_dataloader(), strict=False):
        predictions = network(network.prepare(batch.images, batch.sizes))
        generators = [torch.Generator().manual_seed(number) for _ in batch.boxes]
        losses = network.loss(predictions, batch.boxes, batch.ignore, batch.sizes, generators)
        for name, norm in pulls(network, losses).items():
            norms.setdefault(name, []).append(norm)
    for name, values in norms.items():
        print(f"{name:<12}{sum(values) / len(values):.4f}")


def pulls(network: RegionProposalNetwork, losses: Losses) -> dict[str, float]:
    """The norm of each term's gradient in all parameters of the head, and of a cascade's first stage."""
    parameters = [
        *network.head.parameters(),
        *(network.cascade.parameters() if isinstance(network, CascadeRPN) else ()),
    ]
    found: dict[str, float] = {}
    for name, term in losses.terms.items():
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        squares: list[Tensor] = [gradient.square().sum() for gradient in gradients if gradient is not None]
        found[name] = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
