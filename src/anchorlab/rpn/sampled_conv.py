"""Sampled convolutions: computed at chosen locations only, equal there to the convolution of the whole map.

A plain RPN learns from a few hundred sampled anchors of an image, and its 3x3 convolutions over the finest level of a
pyramid are most of a training step. What is not sampled has no loss and no gradient; here it has no cost either.

B images | C channels | H, W the level's grid | n chosen locations, as ascending indices into B * H * W
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# From this share of a map's locations on (each with its neighbours) computing the whole map is cheaper.
DENSE_SHARE = 0.1
OUTSIDE = -1


@dataclass(frozen=True)
class PendingMap:
    """A feature map, and the layers still to be applied to it.

    The layers are 3x3 convolutions of stride 1 padded with one cell, 1x1 convolutions, and functions of single
    values (ReLU), so that the map keeps its height and width.
    """

    source: Tensor  # (B, C, H, W)
    layers: tuple[nn.Module, ...] = ()

    @property
    def grid(self) -> tuple[int, int]:
        return self.source.shape[-2], self.source.shape[-1]

    def then(self, layers: nn.Module) -> "PendingMap":
        """The map with one more layer (or a sequence of them) to be applied."""
        return PendingMap(self.source, (*self.layers, *_flat(layers)))

    def whole(self) -> Tensor:
        """All layers applied everywhere: (B, C', H, W)."""
        result = self.source
        for layer in self.layers:
            result = layer(result)
        return result

    def at(self, locations: Tensor) -> Tensor:
        """All layers applied, at n locations: (n, C')."""
        if len(locations) > DENSE_SHARE * self.source[:, 0].numel():
            return rows_of(self.whole())[locations]
        return _at(self.source, self.layers, locations)


def linear(layer: nn.Conv2d, rows: Tensor) -> Tensor:
    """A 1x1 convolution of single locations, rows (n, C): the linear layer that it is."""
    return F.linear(rows, layer.weight.flatten(1), layer.bias)


def _at(source: Tensor, layers: Sequence[nn.Module], locations: Tensor) -> Tensor:
    """The values (n, C') after all layers, each computed where the next one looks."""
    if not layers:
        return _Gather.apply(rows_of(source), locations)
    *before, last = layers
    if not isinstance(last, nn.Conv2d):
        return last(_at(source, before, locations))
    if last.kernel_size == (1, 1):
        return linear(last, _at(source, before, locations))
    near = _neighbours(locations, (source.shape[-2], source.shape[-1]))  # (n, 9)
    if before:
        needed, index = near[near != OUTSIDE].unique(return_inverse=True)
        values, near = _at(source, before, needed), near.masked_scatter(near != OUTSIDE, index)
    else:
        values = rows_of(source)
    patches = _Gather.apply(values, near.flatten()).view(len(near), 9 * values.shape[1])
    weight = last.weight.permute(0, 2, 3, 1).flatten(1)  # (C', 9C), a view where the layer is channels_last
    return F.linear(patches, weight, last.bias)


class _Gather(torch.autograd.Function):
    """The rows (N, C) at an index (m,), zeros where it is OUTSIDE: (m, C)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.num_rows = len(rows)
        return rows.index_select(0, index.clamp(min=0)).index_fill_(0, (index == OUTSIDE).nonzero().squeeze(1), 0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        # The only backward pass of a gather that adds up rows with all threads on a CPU; it skips those OUTSIDE.
        return torch.ops.aten.embedding_dense_backward(grads[0], index, ctx.num_rows, OUTSIDE, False), None


def _neighbours(locations: Tensor, grid: tuple[int, int]) -> Tensor:
    """The 3x3 cells around each location, row by row (n, 9); OUTSIDE where they are not of the image."""
    height, width = grid
    row, column = locations % (height * width) // width, locations % width
    step = torch.arange(-1, 2, device=locations.device)
    rows, columns = row[:, None] + step, column[:, None] + step  # (n, 3) each
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    offset = (step[:, None] * width + step).flatten()  # (9,)
    return (locations[:, None] + offset).where(inside.flatten(1), OUTSIDE)


def rows_of(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * H * W, C), a view where the map is channels_last."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def _flat(layers: nn.Module) -> list[nn.Module]:
    """The layers of nested sequences, in order; AssertionError for what a PendingMap cannot hold."""
    if isinstance(layers, nn.Sequential):
        return [layer for part in layers for layer in _flat(part)]
    if isinstance(layers, nn.Conv2d):
        assert (layers.kernel_size, layers.padding) in (((1, 1), (0, 0)), ((3, 3), (1, 1))), layers
        assert (layers.stride, layers.dilation, layers.groups) == ((1, 1), (1, 1), 1), layers
    else:
        assert isinstance(layers, nn.ReLU), layers
    return [layers]
