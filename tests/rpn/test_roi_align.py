"""RoIAlign: which level a box is looked at on, and torchvision's numbers there."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision import ops

from anchorlab.rpn.roi_align import level_of, roi_align

STRIDES = (4, 8, 16)


def square(side: float) -> list[float]:
    return [0.0, 0.0, side, side]


def test_a_box_is_looked_at_where_it_is_nearest_to_eight_cells() -> None:
    """Eight cells are 32, 64 and 128 pixels; halfway between two levels, as factors go, lies 32 * sqrt(2) = 45.25."""
    sides = [1.0, 32.0, 45.0, 45.5, 64.0, 90.0, 91.0, 128.0, 5000.0]
    assert level_of(torch.tensor([square(side) for side in sides]), STRIDES).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert level_of(torch.tensor([[0.0, 0.0, 256.0, 16.0], [5.0, 5.0, 5.0, 5.0]]), STRIDES).tolist() == [1, 0]


def test_one_bin_of_a_box_between_four_cells_is_their_mean() -> None:
    """The middle of a box from 2 to 6 pixels is the corner that the first four cells of stride 4 share."""
    feature = torch.tensor([[[[1.0, 2.0, 50.0], [3.0, 6.0, 50.0]]]])
    found = roi_align([feature], [4], torch.tensor([0]), torch.tensor([[2.0, 2.0, 6.0, 6.0]]), bins=1)
    assert found.tolist() == [[[3.0]]]


def test_bins_go_along_rows_and_images_do_not_mix() -> None:
    """In a map that says its column, and its image times 100, the bins of a box of 2 x 2 cells are these cells."""
    columns = torch.arange(5.0).expand(1, 1, 3, 5)
    maps = [torch.cat((columns, columns + 100))]
    boxes = torch.tensor([[4.0, 4.0, 12.0, 12.0], [8.0, 0.0, 16.0, 8.0]])
    found = roi_align(maps, [4], torch.tensor([0, 1]), boxes, bins=2).squeeze(-1)
    assert found.tolist() == [[1.0, 2.0, 1.0, 2.0], [102.0, 103.0, 102.0, 103.0]]


def by_torchvision(maps: list[Tensor], image: Tensor, boxes: Tensor, bins: int) -> Tensor:
    level, rois = level_of(boxes, STRIDES), torch.cat((image[:, None], boxes), dim=1)
    found = boxes.new_zeros(len(boxes), bins**2, maps[0].shape[1])
    for i, (feature, stride) in enumerate(zip(maps, STRIDES, strict=True)):
        pooled = ops.roi_align(feature, rois[level == i], bins, 1 / stride, sampling_ratio=1, aligned=True)
        found[level == i] = pooled.flatten(2).transpose(1, 2)
    return found


@given(st.integers(0, 2**31), st.sampled_from([1, 2, 7]), st.sampled_from([0, 1, 20]))
def test_numbers_and_gradients_are_torchvision_s(seed: int, bins: int, count: int) -> None:
    """Of boxes of all sizes in an image whose sides no stride divides, up to its borders; of none, too."""
    torch.manual_seed(seed)
    limits = torch.tensor([151.0, 93.0])
    maps = [torch.randn(2, 3, -(-93 // s), -(-151 // s), requires_grad=True) for s in STRIDES]
    corners = torch.rand(count, 2) * limits
    boxes = torch.cat((corners, (corners + torch.rand(count, 2) ** 2 * limits).minimum(limits)), dim=1)
    image = torch.randint(2, (count,))
    results = []
    for values in (roi_align(maps, STRIDES, image, boxes, bins), by_torchvision(maps, image, boxes, bins)):
        results.append((values, torch.autograd.grad(values.square().sum(), maps, allow_unused=True)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layout_changes_nothing(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 4, 6, 9), torch.randn(2, 4, 3, 5)]
    boxes, image = torch.tensor([[1.0, 2.0, 30.0, 20.0], [0.0, 0.0, 36.0, 24.0]]), torch.tensor([1, 0])
    laid_out = [feature.contiguous(memory_format=layout) for feature in maps]
    assert torch.equal(roi_align(laid_out, STRIDES[:2], image, boxes, 3), roi_align(maps, STRIDES[:2], image, boxes, 3))
