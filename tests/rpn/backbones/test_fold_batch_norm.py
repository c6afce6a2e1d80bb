"""Folded batch norm: the same function of the same parameters, under the same names."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from anchorlab.rpn.backbones import fold_batch_norm as folding
from anchorlab.rpn.backbones.fold_batch_norm import FoldedNorm


def body(name: str) -> nn.Module:
    """A timm feature extractor in float64 whose norms do something."""
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True, pretrained=False).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


def gradients(maps: list[Tensor], model: nn.Module) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    total = sum((feature.square().mean() for feature in maps), torch.zeros(()))
    return dict(zip(named, torch.autograd.grad(total, list(named.values())), strict=True))


# Norms with and without activation, convolutions with groups or TensorFlow's padding, norms that read sums.
@pytest.mark.parametrize(
    ("name", "num_left"), [("tf_efficientnet_lite0", 0), ("resnet18", 0), ("regnety_002", 0), ("resnetv2_50", 16)]
)
def test_maps_and_gradients_are_those_before_folding(name: str, num_left: int) -> None:
    before = body(name)
    after = copy.deepcopy(before)
    pairs = folding.fold(after)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected, found = before(images), folding.run(after, pairs, images)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(after(images), expected)  # called by itself it is whole
    torch.testing.assert_close(gradients(found, after), gradients(expected, before))
    norms = [module for module in after.modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum(not isinstance(norm, FoldedNorm) for norm in norms) == num_left
    for model, known in ((after, pairs), (before, {})):  # norms that are trained have not been folded before
        for _ in range(2):  # the second time changes nothing
            folding.settle(model, known)
            torch.testing.assert_close(model(images), expected)


def test_names_and_tensors_stay_and_a_copy_is_its_own() -> None:
    model = body("resnet18")
    state = copy.deepcopy(model.state_dict())
    pairs = folding.fold(model)
    assert list(model.state_dict()) == list(state)
    torch.testing.assert_close(model.state_dict(), state)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = folding.run(model, pairs, images)
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(folding.run(model, pairs, images), expected)
    assert not torch.equal(folding.run(twin, pairs, images)[0], expected[0])
