"""Box geometry against hand cases and torchvision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops

from anchorlab.rpn.boxes import area, clip, pairwise_iof, pairwise_iou

A = torch.tensor([[0.0, 0.0, 4.0, 2.0], [10.0, 10.0, 11.0, 12.0]])
B = torch.tensor([[2.0, 0.0, 6.0, 2.0], [0.0, 0.0, 4.0, 2.0], [4.0, 0.0, 8.0, 2.0]])


def test_hand_cases():
    assert area(A).tolist() == [8.0, 2.0]
    torch.testing.assert_close(pairwise_iou(A, B), torch.tensor([[4 / 12, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    # Half of A[0] lies in B[0]; touching edges share nothing.
    assert pairwise_iof(A, B).tolist() == [[0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_iof_is_the_share_of_the_first_argument():
    small, large = torch.tensor([[1.0, 1.0, 2.0, 3.0]]), torch.tensor([[0.0, 0.0, 4.0, 5.0]])
    assert pairwise_iof(small, large).item() == 1.0
    assert pairwise_iof(large, small).item() == pytest.approx(2 / 20)


def test_clip_takes_height_first():
    clipped = clip(torch.tensor([[-3.0, -1.0, 50.0, 50.0]]), (10, 20))
    assert clipped.tolist() == [[0.0, 0.0, 20.0, 10.0]]


@pytest.mark.parametrize("function", [pairwise_iou, pairwise_iof])
@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_empty(function, n, m):
    assert function(torch.zeros(n, 4), torch.zeros(m, 4)).shape == (n, m)


COORDINATES = st.lists(st.floats(0, 1300, width=32), min_size=4, max_size=4)


@given(st.lists(COORDINATES, min_size=1, max_size=5), st.lists(COORDINATES, min_size=1, max_size=5))
@settings(max_examples=60)
def test_iou_is_torchvisions_and_symmetric(a, b):
    a, b = (torch.tensor(x).unflatten(1, (2, 2)).sort(dim=1).values.flatten(1) for x in (a, b))
    iou = pairwise_iou(a, b)
    torch.testing.assert_close(iou, ops.box_iou(a, b), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(iou, pairwise_iou(b, a).T, rtol=0, atol=0, equal_nan=True)


def test_half_precision_boxes_are_compared_in_float32():
    a = torch.tensor([[1000.0, 1000.0, 1016.0, 1016.0]], dtype=torch.bfloat16)
    b = a.float() + torch.tensor([0.0, 0.0, 0.5, 0.0])
    for function in (pairwise_iou, pairwise_iof):
        result = function(b, a)
        assert result.dtype == torch.float32
        assert result.item() == pytest.approx((a.float()[0, 2] - 1000).item() / (b[0, 2] - 1000).item())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pairwise_iou(b, b).dtype == torch.float32
        assert area(a).dtype == torch.float32


def test_float64_stays_float64():
    assert pairwise_iou(A.double(), B.double()).dtype == torch.float64
