"""Learning rates of the parts of a network: one for all, and a part's own where it has a factor."""

import pytest
import torch

from anchorlab.build import build, build_network
from anchorlab.cli.overrides import check_overrides
from anchorlab.training.module import RPNModule
from tests.training.test_experiments import CONFIGS


def optimizer_and_names(*overrides: str) -> tuple[torch.optim.Optimizer, dict[torch.Tensor, str]]:
    config = check_overrides("train", CONFIGS, ["optimizer.lr=0.01", *overrides])
    module = RPNModule(build_network(config), build(config["optimizer"], "optimizer"))
    named = module.network.named_parameters()
    return module.configure_optimizers(), {p: name for name, p in named if p.requires_grad}


@pytest.mark.parametrize("choice", ["adamw", "sgd"])
def test_second_look_learns_at_a_rate_of_its_own(choice: str) -> None:
    optimizer, names = optimizer_and_names(f"optimizer={choice}", "refine=roi", "refine.lr_factor=2.5")
    rates = {names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(rates) == len(names)
    for name, rate in rates.items():
        assert rate == pytest.approx(0.025 if name.startswith("refine.") else 0.01), name
    ours, theirs = ({k: v for k, v in group.items() if k not in ("params", "lr")} for group in optimizer.param_groups)
    assert ours == theirs


def test_without_a_factor_all_are_one_group_in_the_order_of_the_network() -> None:
    """As checkpoints have it that are older than the factor."""
    optimizer, names = optimizer_and_names("refine=roi", "refine.lr_factor=1")
    (group,) = optimizer.param_groups
    assert [names[p] for p in group["params"]] == list(names.values())
