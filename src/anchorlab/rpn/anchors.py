"""Anchors: k boxes of fixed width and height, repeated at every location of every feature map; hold no weights.

An anchor is what an output channel group at (row, column) *means*; this file knows nothing of features,
labels or training. Settings become shapes once (`AnchorGrid`), shapes become boxes once per feature-map size.

A: anchors of one image over all levels, k: anchors per location, H, W: rows and columns of a level. Sizes are
square roots of areas in pixels of the network's input; a ratio is height / width; levels go finest first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from anchorlab import notebook
from anchorlab.rpn.anchor_iou import Lattice, LevelGrid, Overlaps
from anchorlab.rpn.shapes import (
    check_k,
    check_sides,
    explicit_shapes,
    grid_shapes,
    half_extents,
    is_nested,
    level_ratios,
    level_sizes,
    with_octaves,
)
from anchorlab.signatures import Count, Levels, LevelShapes, Positive, Share, checked

# A run that pads freely meets hundreds of sizes, and 800,000 anchors are 13 MB.
MAX_CACHED_SIZES = 8


@dataclass(frozen=True, eq=False)
class Anchors:
    """The anchors of one padded image size.

    boxes: (A, 4) float32, ordered by level, row, column, anchor j, as torchvision's.
    levels: the same numbers as rows and columns; num_per_level: how many of the A belong to each level.
    """

    boxes: Tensor
    levels: tuple[LevelGrid, ...]
    num_per_level: tuple[int, ...]

    @cached_property
    def lattice(self) -> Overlaps:
        """The anchors ready for IoU; made when first asked for, as only training compares them with boxes."""
        return Lattice(self.levels)


@checked
class AnchorGrid:
    """Anchor settings -> shapes per level -> anchors of every level.

    Which shapes:
        sizes: one list per level, or flat: on a pyramid one size per level, on one level all of its sizes.
        ratios: height / width; one list per level, or flat: the same on every level. Unused with `shapes`.
        scale: instead of sizes: size = scale * stride on every level.
        scales_per_octave: n replaces each size s by s * 2^(i / n), i = 0 .. n - 1 (RetinaNet's way).
        shapes: instead of sizes and ratios: one list of [width, height] pairs per level, flat on one level.
        k: anchors per location. Where each level has one size, it sets scales_per_octave = k / len(ratios);
            otherwise it is only checked. None: as many as the other settings give.
    Where they lie (a switch for each habit of a reference implementation):
        rounded: round the corners of the cell's anchors to whole pixels (torchvision).
        offset: centre of the first anchor, in strides: 0 (torchvision, Detectron2), 0.5 (centre of the cell).
        order: outer loop over the anchors of a cell: "size" (Detectron2) or "ratio" (torchvision).
        stride: "declared" (`strides`) or "inferred" (image size // grid size: torchvision; on an image that
            is no multiple of the stride this is wrong, 61 instead of 64).
        strides: pixels per cell on each level, from the backbone.

    Raises ValueError, naming the setting, where these contradict each other or give an anchor without area.

    HABITS: the arguments that are switches for the habits of reference implementations. PLACING: those of them that
    move anchors and leave their widths and heights as they are.
    """

    HABITS = ("rounded", "offset", "order", "stride")
    PLACING = ("offset", "stride")

    def __init__(
        self,
        sizes: Levels | None = None,
        ratios: Levels = (0.5, 1.0, 2.0),
        scale: Positive | None = None,
        scales_per_octave: Count | None = None,
        shapes: LevelShapes | None = None,
        k: Count | None = None,
        rounded: bool = False,
        offset: Share = 0.0,
        order: Literal["size", "ratio"] = "size",
        stride: Literal["declared", "inferred"] = "declared",
        *,
        strides: Sequence[int],
    ) -> None:
        self.strides = tuple(strides)
        self.offset = offset
        self.stride = stride
        num_levels = len(self.strides)
        if shapes is None:
            ratio = level_ratios(ratios, num_levels)
            size = level_sizes(sizes, scale, self.strides)
            size_is_single = scale is not None or (num_levels > 1 and not is_nested(sizes))
            size = with_octaves(size, ratio, scales_per_octave, k if size_is_single else None)
            self._nominal = [grid_shapes(s, r, order) for s, r in zip(size, ratio, strict=True)]
            check_k(k, self._nominal, f"sizes={size} with ratios={ratio}")
        else:
            _refuse_beside_shapes(sizes=sizes, scale=scale, scales_per_octave=scales_per_octave)
            self._nominal = explicit_shapes(shapes, num_levels)
            check_k(k, self._nominal, "shapes")
        check_sides(self._nominal)
        self._half = [half_extents(shape, rounded) for shape in self._nominal]
        self._cache: dict[Any, Anchors] = {}

    @property
    def num_anchors(self) -> tuple[int, ...]:
        """k of each level."""
        return tuple(len(half) for half in self._half)

    @property
    def shapes(self) -> list[Tensor]:
        """Width and height (k, 2) of each level's anchors, after rounding, in float32 pixels."""
        return [2 * half for half in self._half]

    def axes(self) -> dict[str, float]:
        """The settings as scalars to sort and plot runs by.

        k (the largest of the levels), smallest_size, largest_size (pixels, before rounding), ratio_span
        (largest ratio / smallest ratio); six significant digits.
        """
        widths, heights = torch.cat(self._nominal).double().unbind(1)
        size, ratio = (widths * heights).sqrt(), heights / widths
        values = {
            "smallest_size": size.min().item(),
            "largest_size": size.max().item(),
            "ratio_span": (ratio.max() / ratio.min()).item(),
        }
        return {"k": max(self.num_anchors)} | {name: float(f"{value:.6g}") for name, value in values.items()}

    def __repr__(self) -> str:
        return f"AnchorGrid({'; '.join(f'stride {stride}: {shapes}' for stride, _, shapes in self._rows())})"

    def _repr_html_(self) -> str:
        return notebook.table(["stride", "k", "width x height, px"], self._rows())

    def _rows(self) -> list[tuple[int, int, str]]:
        """Stride, k and shapes in pixels of each level, to be read."""
        return [
            (stride, len(shapes), ", ".join(f"{width:.0f} x {height:.0f}" for width, height in shapes.tolist()))
            for stride, shapes in zip(self.strides, self.shapes, strict=True)
        ]

    def __call__(
        self,
        feature_sizes: Sequence[tuple[int, int]],
        image_size: tuple[int, int],
        device: torch.device | str,
    ) -> Anchors:
        """The anchors of feature maps of the given (height, width) of an image padded to `image_size`.

        float32 whatever the precision of the features. They are kept for the next call: do not write into
        them.
        """
        assert len(feature_sizes) == len(self.strides), "one feature map per stride"
        sizes = tuple((int(height), int(width)) for height, width in feature_sizes)
        seen_size = (int(image_size[0]), int(image_size[1])) if self.stride == "inferred" else None
        key = (sizes, seen_size, torch.device(device))
        if key not in self._cache:
            if len(self._cache) == MAX_CACHED_SIZES:
                del self._cache[next(iter(self._cache))]
            # Cached tensors first made during validation must still be usable in a training step's graph.
            with torch.inference_mode(False):
                self._cache[key] = self._build(sizes, image_size, torch.device(device))
        return self._cache[key]

    def _build(
        self, feature_sizes: Sequence[tuple[int, int]], image_size: tuple[int, int], device: torch.device
    ) -> Anchors:
        levels = []
        for (rows, columns), declared, half in zip(feature_sizes, self.strides, self._half, strict=True):
            step_y = step_x = declared
            if self.stride == "inferred":
                step_y, step_x = image_size[0] // rows, image_size[1] // columns
            half_width, half_height = half.to(device).unbind(1)  # (k,), (k,)
            x = centres(columns, self.offset, step_x, device)[:, None]  # (W, 1)
            y = centres(rows, self.offset, step_y, device)[:, None]  # (H, 1)
            levels.append(LevelGrid(x - half_width, y - half_height, x + half_width, y + half_height))
        boxes = [level.boxes() for level in levels]
        return Anchors(torch.cat(boxes), tuple(levels), tuple(len(b) for b in boxes))


def centres(count: int, offset: float, step: float, device: torch.device | str) -> Tensor:
    """Where the anchors of a row of cells are centred (count,), float32 pixels."""
    cells = torch.arange(count, dtype=torch.float32, device=device)
    return (cells + offset) * step


def _refuse_beside_shapes(**settings: Any) -> None:
    for name, value in settings.items():
        if value is not None:
            raise ValueError(f"{name}={value} has no meaning beside shapes: set one of them to null.")
