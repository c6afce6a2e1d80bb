"""Adaptive convolution: 3x3, sampled over each moved anchor instead of over its cell; does not move anchors.

The adaptive convolution of Vu et al. 2019, "Cascade RPN", section 3.3: torchvision's `deform_conv2d`. For the few
anchors that a loss samples, whose inputs are a few thousand places of the map, those are looked up alone; on a CPU that
is faster for the whole map, too.

B images | C channels | H, W the level's grid | n chosen locations, as indices into B * H * W
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from anchorlab.rpn.anchor_iou import LevelGrid
from anchorlab.rpn.sampled_conv import rows_of

AT_ONCE = 8192
"""Locations of a whole map whose inputs are looked up together, on a CPU: 9 kB each with 256 channels, 75 MB in all."""


@dataclass(frozen=True)
class AlignedMap:
    """The second stage's features of one level: the adaptive convolution and ReLU, applied where one asks.

    What a `PendingMap` is to a plain RPN; nothing can follow but the head's 1x1 convolutions.
    """

    source: Tensor  # (B, C, H, W)
    offset: Tensor  # (B, 18, H, W), of `sampling_offsets`
    layer: nn.Conv2d

    @property
    def grid(self) -> tuple[int, int]:
        return self.source.shape[-2], self.source.shape[-1]

    def then(self, layers: nn.Sequential) -> "AlignedMap":
        """Itself: the head over it has no 3x3 convolution (`head.convs=0`)."""
        assert len(layers) == 0, layers
        return self

    def whole(self) -> Tensor:
        """(B, C, H, W)."""
        if self.source.device.type == "cpu":  # deform_conv2d is slow there, and its gradient slower
            everywhere = torch.arange(self.source[:, 0].numel()).split(AT_ONCE)
            rows = torch.cat([self.at(locations) for locations in everywhere])
            return rows.unflatten(0, (-1, *self.grid)).permute(0, 3, 1, 2)
        # deform_conv2d wants one type; at half precision its positions would be a cell off on large maps.
        with torch.autocast(self.source.device.type, enabled=False):
            weight, bias = self._parameters()
            return F.relu(deform_conv2d(self.source.float(), self.offset, weight, bias, padding=(1, 1)))

    def at(self, locations: Tensor) -> Tensor:
        """At n locations, indices into B * H * W: (n, C); differs from `whole` by the order of sums alone."""
        height, width = self.grid
        offset = rows_of(self.offset)[locations].unflatten(1, (9, 2))
        tap = torch.arange(-1, 2, device=offset.device)
        y = (locations % (height * width) // width)[:, None] + tap.repeat_interleave(3) + offset[..., 0]  # (n, 9)
        x = (locations % width)[:, None] + tap.repeat(3) + offset[..., 1]
        image = (locations // (height * width))[:, None].expand_as(y)
        with torch.autocast(offset.device.type, enabled=False):
            weight, bias = self._parameters()
            inputs = bilinear(self.source.float(), image.flatten(), y.flatten(), x.flatten())  # (9n, C)
            patches = inputs.view(len(locations), 9 * inputs.shape[1])  # n may be 0, where -1 would not do
            return F.linear(patches, weight.permute(0, 2, 3, 1).flatten(1), bias).relu()

    def _parameters(self) -> tuple[Tensor, Tensor]:
        return self.layer.weight.float(), cast(Tensor, self.layer.bias).float()


def sampling_offsets(moved: Tensor, level: LevelGrid, stride: int) -> Tensor:
    """How far from its cell a 3x3 convolution looks for its nine inputs: (B, 18, H, W), y before x, in cells.

    They are three rows and columns from one side of the anchor (B, H * W, 4) to the other. An anchor two cells wide
    and tall at its own location gives no offset: the usual convolution.
    """
    rows, columns = len(level.y1), len(level.x1)
    x1, y1, x2, y2 = moved.unflatten(1, (rows, columns)).unbind(-1)  # (B, H, W) each
    offsets = []
    for low, high, grid, axis in (
        (y1, y2, _centres(level.y1, level.y2), 1),
        (x1, x2, _centres(level.x1, level.x2), 2),
    ):
        step = (grid[-1] - grid[0]) / (len(grid) - 1) if len(grid) > 1 else grid.new_tensor(stride)
        shape = (-1, 1) if axis == 1 else (1, -1)
        away = ((low + high) / 2 - grid.view(shape)) / step
        tap = torch.arange(-1, 2, device=moved.device).view(3, 1, 1, 1)
        offsets.append(away + tap * ((high - low) / step / 2 - 1)[None])  # (3, B, H, W)
    dy, dx = offsets
    nine = torch.stack((dy[:, None].expand(3, 3, -1, -1, -1), dx[None].expand(3, 3, -1, -1, -1)), dim=2)
    return nine.flatten(0, 2).transpose(0, 1).contiguous()  # (3, 3, 2, B, H, W) -> (B, 18, H, W)


def bilinear(maps: Tensor, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values (n, C) of maps (B, C, H, W) at n places between cells, linear between the four next to each; 0 outside.

    image: (n,) int64, of the batch; y, x: (n,) in cells, 0 in the middle of the first.
    """
    height, width = maps.shape[-2:]
    index, share = [], []
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = y.floor() + down, x.floor() + right
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        cell = (image * height + row.long()) * width + column.long()
        index.append(cell.where(inside, 0))
        share.append(((1 - (y - row).abs()) * (1 - (x - column).abs())).where(inside, 0))
    return F.embedding_bag(torch.stack(index, 1), rows_of(maps), per_sample_weights=torch.stack(share, 1), mode="sum")


def _centres(low: Tensor, high: Tensor) -> Tensor:
    """Where the anchors of each cell are centred along one axis, from edges (cells, 1)."""
    return (low[:, 0] + high[:, 0]) / 2
