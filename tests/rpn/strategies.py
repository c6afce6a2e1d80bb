"""Random anchors and boxes for the tests of the lattice and the assigner: small, and full of hard cases."""

import hypothesis.strategies as st
import torch
from torch import Tensor

from anchorlab.rpn.anchors import AnchorGrid, Anchors


@st.composite
def anchors(draw: st.DrawFn) -> tuple[Anchors, tuple[int, int]]:
    """Anchors of up to three levels of a non-square, perhaps padded image, and the image's (height, width).

    Rounded or not, with an offset or not, strides declared or inferred, k different on each level.
    """
    size = draw(st.integers(20, 90)), draw(st.integers(20, 140))
    strides = draw(st.lists(st.sampled_from([5, 8, 16, 33]), min_size=1, max_size=3, unique=True).map(sorted))
    padding = draw(st.sampled_from([0, 19]))
    features = [(-(-(size[0] + padding) // s), -(-(size[1] + padding) // s)) for s in strides]
    extent = st.floats(2, 90, width=32)
    shapes = [draw(st.lists(st.tuples(extent, extent), min_size=1, max_size=3)) for _ in strides]
    grid = AnchorGrid(
        shapes=shapes,
        rounded=draw(st.booleans()),
        offset=draw(st.sampled_from([0.0, 0.5, 0.3])),
        stride=draw(st.sampled_from(["declared", "inferred"])),
        strides=strides,
    )
    return grid(features, (size[0] + padding, size[1] + padding), "cpu"), size


def boxes(draw: st.DrawFn, anchors: Anchors, size: tuple[int, int], max_boxes: int = 6) -> Tensor:
    """Boxes (G, 4), G from 0: on and off the pixel grid, anchors, duplicates, far outside, without area."""
    height, width = size
    whole = st.integers(-10, 150).map(float)
    fine = st.floats(-10, 150, width=32)
    length = st.one_of(st.just(0.0), st.integers(1, 200).map(float), st.floats(0.0625, 200, width=32))
    free = st.tuples(st.one_of(whole, fine), st.one_of(whole, fine), length, length)
    found = []
    for kind in draw(st.lists(st.sampled_from(["free", "anchor", "twice", "far"]), max_size=max_boxes)):
        if kind == "anchor":
            index = draw(st.integers(0, len(anchors.boxes) - 1))
            found.append(anchors.boxes[index])
        elif kind == "twice" and found:
            found.append(found[-1])
        elif kind == "far":
            found.append(torch.tensor([9000.0, 9000.0, 9000.0 + width, 9000.0 + height]))
        else:
            x, y, box_width, box_height = draw(free)
            found.append(torch.tensor([x, y, x + box_width, y + box_height]))
    return torch.stack(found) if found else torch.zeros(0, 4)
