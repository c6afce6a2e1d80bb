"""Anchor shapes: turn sizes, ratios and k into widths and heights for each level; place nothing on a grid.

Every setting comes flat or as one list per level; here each becomes one list per level, or a `ValueError` of one
sentence that names the setting, its value and the fix.

k: anchors per location. Sizes are square roots of areas in pixels; a ratio is height / width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def level_sizes(sizes: Sequence[Any] | None, scale: float | None, strides: Sequence[float]) -> list[list[float]]:
    """The sizes of each level: as given, or `scale` times the level's stride."""
    if sizes is not None and scale is not None:
        raise ValueError(f"sizes={list(sizes)} and scale={scale} are both given: set one of them to null.")
    if scale is not None:
        return [[scale * stride] for stride in strides]
    if sizes is None:
        raise ValueError("sizes=null, scale=null and shapes=null: give one of them.")
    if is_nested(sizes):
        return _one_list_per_level("sizes", sizes, len(strides))
    flat = [float(size) for size in sizes]
    if len(strides) == 1:
        return [flat]
    if len(flat) != len(strides):
        raise ValueError(
            f"sizes={flat} has {len(flat)} sizes for {len(strides)} levels: "
            "give one size per level, or one list of sizes per level."
        )
    return [[size] for size in flat]


def level_ratios(ratios: Sequence[Any], num_levels: int) -> list[list[float]]:
    """The ratios of each level; a flat list is the same on every level."""
    if is_nested(ratios):
        return _one_list_per_level("ratios", ratios, num_levels)
    return [[float(ratio) for ratio in ratios]] * num_levels


def with_octaves(
    sizes: list[list[float]], ratios: list[list[float]], per_octave: int | None, k: int | None
) -> list[list[float]]:
    """Each size s as s * 2^(i / n), i < n: n is `per_octave`, else k / len(ratios) if k is given, else 1."""
    result = []
    for level, level_ratio in zip(sizes, ratios, strict=True):
        count = per_octave
        if count is None:
            count = 1 if k is None else _divide(k, level_ratio)
        result.append([size * 2 ** (i / count) for size in level for i in range(count)])
    return result


def grid_shapes(sizes: Sequence[float], ratios: Sequence[float], order: str) -> Tensor:
    """Width and height (k, 2), float32, of each size in each ratio; the outer loop runs over what `order` names.

    Computed in float32 as torchvision's `generate_anchors` does, so that rounding them later goes the same way.
    """
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()
    size = torch.tensor(sizes, dtype=torch.float32)
    shapes = torch.stack(((1 / root)[:, None] * size, root[:, None] * size), dim=-1)  # (ratios, sizes, 2)
    return (shapes if order == "ratio" else shapes.transpose(0, 1)).reshape(-1, 2)


def explicit_shapes(shapes: Sequence[Any], num_levels: int) -> list[Tensor]:
    """Width and height (k, 2), float32, of each level as listed; on one level the list may be flat."""
    if num_levels == 1 and is_nested(shapes) and not is_nested(shapes[0]):
        shapes = [shapes]
    if not is_nested(shapes) or not all(is_nested(level) for level in shapes) or len(shapes) != num_levels:
        raise ValueError(
            f"shapes={shapes} must hold a list of [width, height] pairs for each of the levels ({num_levels})."
        )
    pairs = [[[float(side) for side in pair] for pair in level] for level in shapes]
    if wrong := [pair for level in pairs for pair in level if len(pair) != 2]:
        raise ValueError(f"shapes={shapes} has the entry {wrong[0]}: write each shape as [width, height].")
    return [torch.tensor(level, dtype=torch.float32) for level in pairs]


SMALLEST_SIDE, LARGEST_SIDE = 0.01, 1e6


def check_sides(shapes: list[Tensor]) -> None:
    """Raise ValueError for an anchor with a side, in pixels, that float32 boxes and IoU cannot work with."""
    for width, height in torch.cat(shapes).tolist():
        if not (min(width, height) >= SMALLEST_SIDE and max(width, height) <= LARGEST_SIDE):
            raise ValueError(
                f"the settings make an anchor of {width:.3g} x {height:.3g} pixels: change sizes, scale or ratios so "
                f"that each side is between {SMALLEST_SIDE:g} and {LARGEST_SIDE:,.0f}"
            )


def half_extents(shapes: Tensor, rounded: bool) -> Tensor:
    """Half of each width and height (k, 2), in whole pixels if `rounded`, as torchvision rounds corners."""
    half = shapes / 2
    if not rounded:
        return half
    half = half.round()
    if (half == 0).any():
        width, height = shapes[(half == 0).any(dim=1)][0].tolist()
        raise ValueError(
            f"rounded=true leaves no area of an anchor of {width:.3g} x {height:.3g} pixels: "
            "use larger sizes, milder ratios, or rounded=false."
        )
    return half


def check_k(k: int | None, shapes: list[Tensor], source: str) -> None:
    """Raise ValueError unless every level has k shapes (k None: any number); `source` says what made them."""
    for level, shape in enumerate(shapes):
        if k is not None and k != len(shape):
            raise ValueError(
                f"k={k}, but {source} make {len(shape)} anchors per location on level {level}: "
                "set k to null or change one of them."
            )


def is_nested(values: Any) -> bool:
    """Whether `values` is a list of lists."""
    return _is_list(values) and len(values) > 0 and _is_list(values[0])


def _is_list(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str)


def _one_list_per_level(key: str, values: Sequence[Any], num_levels: int) -> list[list[float]]:
    if len(values) != num_levels:
        raise ValueError(
            f"{key}={list(values)} has {len(values)} lists for {num_levels} levels: give one list per level."
        )
    return [[float(value) for value in level] for level in values]


def _divide(k: int, ratios: list[float]) -> int:
    if k < 1 or k % len(ratios):
        raise ValueError(
            f"k={k} cannot be divided evenly among the {len(ratios)} of ratios={ratios}: "
            f"make k a multiple of {len(ratios)}, or change the number of ratios."
        )
    return k // len(ratios)
