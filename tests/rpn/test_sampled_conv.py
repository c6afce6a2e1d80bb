"""Convolutions at chosen locations: what they give there is what the whole map holds, and so are the gradients."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anchorlab.rpn import sampled_conv as sparse
from anchorlab.rpn.sampled_conv import PendingMap, linear


def stack(convs: int) -> nn.Sequential:
    """3x3 convolutions with ReLU between them and a 1x1 behind, of unequal widths, so that a swap shows."""
    widths = [3, *range(5, 5 + convs)]
    layers: list[nn.Module] = []
    for before, width in pairwise(widths):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 4, 1)).double()


def rows(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.fixture
def never_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "DENSE_SHARE", 1.0)


@settings(max_examples=40)
@given(
    convs=st.integers(1, 3),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 9)),
    share=st.floats(0.05, 1),
    dense_share=st.sampled_from([0.0, 0.3, 1.0]),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    seed=st.integers(0, 1000),
)
def test_values_and_gradients_are_those_of_the_whole_map(
    convs: int, shape: tuple[int, int, int], share: float, dense_share: float, layout: torch.memory_format, seed: int
) -> None:
    torch.manual_seed(seed)
    images, height, width = shape
    layers = stack(convs).to(memory_format=layout)
    source = (
        torch.randn(images, 3, height, width, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    )
    count = images * height * width
    locations = torch.randperm(count)[: max(1, int(share * count))].sort().values
    weights = torch.randn(len(locations), 4, dtype=torch.float64)
    tensors = [source, *layers.parameters()]

    expected = rows(layers(source))[locations]
    expected_gradients = torch.autograd.grad((expected * weights).sum(), tensors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "DENSE_SHARE", dense_share)
        found = PendingMap(source).then(layers).at(locations)
    gradients = torch.autograd.grad((found * weights).sum(), tensors)

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, expected_gradients)


@pytest.mark.usefixtures("never_dense")
def test_a_corner_sees_zeros_outside_and_nothing_of_the_next_image() -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(layer.weight)
    source = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]], [[[100.0] * 3] * 2]])
    corners = torch.tensor([0, 2, 3, 5, 6])
    assert PendingMap(source).then(layer).at(corners).flatten().tolist() == [12, 16, 12, 16, 400]


@pytest.mark.usefixtures("never_dense")
def test_no_location_gives_no_rows_and_gradients_of_zero() -> None:
    layers = stack(2)
    source = torch.randn(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    found = PendingMap(source).then(layers).at(torch.zeros(0, dtype=torch.int64))
    assert found.shape == (0, 4)
    found.sum().backward()  # distributed training waits for the gradient of every weight
    for tensor in (source, *layers.parameters()):
        assert tensor.grad is not None
        assert not tensor.grad.any()


def test_nothing_pending_is_the_map_itself() -> None:
    source = torch.randn(2, 3, 4, 5)
    assert PendingMap(source).whole() is source
    torch.testing.assert_close(PendingMap(source).at(torch.tensor([0, 39])), rows(source)[[0, 39]])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 3, 3, stride=2, padding=1),
        nn.Conv2d(3, 3, 3),
        nn.Conv2d(3, 3, 3, padding=1, groups=3),
        nn.GroupNorm(1, 3),
    ],
)
def test_a_layer_that_looks_elsewhere_is_refused(layer: nn.Module) -> None:
    with pytest.raises(AssertionError):
        PendingMap(torch.zeros(1, 3, 4, 5)).then(layer)


def test_a_1x1_convolution_is_a_linear_layer() -> None:
    layer = nn.Conv2d(3, 7, 1)
    source = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(linear(layer, rows(source)), rows(layer(source)))
