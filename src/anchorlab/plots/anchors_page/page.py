"""anchors.html: one offline file with a trained RPN inside, which shows by touch where anchors enter.

The page computes the head, assigners, losses, gradients and proposals itself (rpn.js) and draws them (page.js); here
its numbers are gathered. The backbone does not travel: its feature maps of the one image do.

B = 1 image | h, w a level's grid | C channels of the maps | k anchors per location | G boxes
"""

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from anchorlab.plots import palette
from anchorlab.plots.html import as_script, filled
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.atss import ATSSAssigner
from anchorlab.rpn.assigners.max_iou import OBJECT, MaxIoUAssigner
from anchorlab.rpn.losses.box import SmoothL1Loss
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.proposals.tiered_nms import TieredNMSSelector
from anchorlab.rpn.samplers import BalancedSampler
from anchorlab.rpn.variants import RefinedRPN
from anchorlab.version import __version__

MOST_NUMBERS = 530_000
"""float32 values that fit a page below 3 MB: 2.8 MB as base64."""
TIERS = ((20, 0.7), (70, 0.8), (100, 0.5), (800, 0.85), (1000, 0.5))
"""Those of conf/proposals/tiered.yaml, for a run with plain NMS."""


@dataclass(frozen=True)
class Example:
    """One image as the network's input, with its objects."""

    name: str
    run: str  # the run's name
    pixels: np.ndarray  # (H, W, 3) uint8, without padding
    images: Tensor  # (1, 3, H', W') prepared and padded
    boxes: np.ndarray  # (G, 4) of the objects, in pixels of the input
    start: tuple[int, int, int] | None = None  # level, row and column looked at first; None: the surest labelled object


def as_page(network: RegionProposalNetwork, example: Example) -> str:
    """The page as HTML, below 3 MB.

    Levels whose maps would make it larger are left out, finest first, and then the 3x3 convolution, too: the maps are
    what it gives. The page says so.

    Raises:
        ValueError: not even the coarsest level's map fits.
    """
    content = contents(network, example)
    parts = {"palette": palette.as_css()}
    parts |= {name.replace(".", "_"): _file(name) for name in ("page.css", "rpn.js", "page.js")}
    parts |= {"title": "Where do the anchors come in?", "content": as_script(content)}
    return filled(_file("page.html"), parts)


@torch.no_grad()
def contents(network: RegionProposalNetwork, example: Example) -> dict[str, Any]:
    """The data of the page, as JSON values."""
    maps = [feature.float() for feature in network.backbone(example.images)]
    whole = _convolution_fits(network, maps)
    if not whole:
        maps = [network.head.conv(feature).float() for feature in maps]
    first = _first_level_that_fits(maps, _number_of_parameters(network, whole))
    height, width = example.pixels.shape[:2]
    return {
        "version": __version__,
        "run": example.run,
        "image": {"name": example.name, "width": width, "height": height, "source": _picture(example.pixels)},
        "boxes": [[round(float(side), 2) for side in box] for box in example.boxes],
        "head": _head(network, whole, channels=maps[0].shape[1]),
        "levels": _levels(network, maps, example.images.shape[-2:])[first:],
        "coder": {"weights": network.coder.weights, "means": network.coder.means, "clip": network.coder.clip},
        "assigner": _assigner(network.assigner),
        "sampler": _sampler(network.sampler),
        "beta": network.criterion.beta if isinstance(network.criterion, SmoothL1Loss) else SmoothL1Loss().beta,
        "selector": _selector(network),
        "start": _start(example, network, maps, first),
        "notes": _notes(network, whole, first),
    }


def _convolution_fits(network: RegionProposalNetwork, maps: Sequence[Tensor]) -> bool:
    """Whether the weights of the one 3x3 convolution fit beside the maps of all levels."""
    numbers = sum(feature.numel() for feature in maps) + _number_of_parameters(network, whole=True)
    return _convolutions(network) == 1 and numbers <= MOST_NUMBERS


def _convolutions(network: RegionProposalNetwork) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in network.head.conv)


def _number_of_parameters(network: RegionProposalNetwork, whole: bool) -> int:
    parts = [network.head.scores, network.head.deltas, *([network.head.conv] if whole else [])]
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def _first_level_that_fits(maps: Sequence[Tensor], parameters: int) -> int:
    """The finest level of which all levels from there on fit."""
    for first in range(len(maps)):
        if parameters + sum(feature.numel() for feature in maps[first:]) <= MOST_NUMBERS:
            return first
    channels, rows, columns = maps[-1].shape[1:]
    raise ValueError(
        f"format=html: the coarsest map, {rows} x {columns} x {channels}, makes a page above 3 MB: "
        "use a smaller image, or format=pictures"
    )


# --------------------------------------------------------------------------------------------------- the network


def _head(network: RegionProposalNetwork, whole: bool, channels: int) -> dict[str, Any]:
    head = network.head
    (convolution, *_) = [module for module in head.conv if isinstance(module, nn.Conv2d)] or [None]
    outputs = {k: {"scores": _layer(head.scores[k]), "deltas": _layer(head.deltas[k])} for k in cast(Any, head.scores)}
    width = cast(nn.Conv2d, next(iter(head.scores.values()))).in_channels
    return {
        "perAnchor": 2 if head.objectness == "softmax" else 1,
        "channels": channels,
        "width": width,
        "conv": _layer(convolution) if whole and convolution is not None else None,
        "outputs": outputs,
    }


def _layer(module: nn.Module) -> list[str]:
    """Weights with the channels last, so that a location's inputs lie side by side, and biases."""
    convolution = cast(nn.Conv2d, module)
    weight = convolution.weight.permute(0, 2, 3, 1)  # (outputs, rows, columns, C)
    return [_base64(weight), _base64(cast(Tensor, convolution.bias))]


def _levels(network: RegionProposalNetwork, maps: Sequence[Tensor], size: Sequence[int]) -> list[dict[str, Any]]:
    grid: AnchorGrid = network.anchors
    levels = []
    for number, (feature, stride, shapes) in enumerate(zip(maps, grid.strides, grid.shapes, strict=True)):
        rows, columns = feature.shape[-2:]
        inferred = grid.stride == "inferred"
        levels.append(
            {
                "number": number,
                "stride": stride,
                "stepX": size[1] // columns if inferred else stride,
                "stepY": size[0] // rows if inferred else stride,
                "offset": grid.offset,
                "rows": rows,
                "columns": columns,
                "k": len(shapes),
                "shapes": shapes.double().tolist(),
                "map": _base64(feature[0].permute(1, 2, 0)),  # (h, w, C)
            }
        )
    return levels


def _assigner(assigner: Any) -> dict[str, Any]:
    """Thresholds of the run's assigner, and the defaults of the other one."""
    iou = assigner if isinstance(assigner, MaxIoUAssigner) else MaxIoUAssigner()
    atss = assigner if isinstance(assigner, ATSSAssigner) else ATSSAssigner()
    return {
        "kind": "atss" if isinstance(assigner, ATSSAssigner) else "max_iou",
        "foreground": iou.foreground_iou,
        "background": iou.background_iou,
        "lowQuality": iou.low_quality,
        "candidates": atss.candidates,
    }


def _sampler(sampler: Any) -> dict[str, Any]:
    if sampler.num is None:
        return {"num": None, "fraction": 1.0}
    return {"num": sampler.num, "fraction": getattr(sampler, "positive_fraction", BalancedSampler().positive_fraction)}


def _selector(network: RegionProposalNetwork) -> dict[str, Any]:
    selector = network.selector
    before, iou = (
        max(value) if isinstance(value, Sequence) else value for value in (selector.pre_nms_top_n, selector.nms_iou)
    )
    tiered = isinstance(selector, TieredNMSSelector)
    return {
        "tiered": tiered,
        "perLevel": before,
        "most": selector.post_nms_top_n,
        "iou": iou,
        "tiers": selector.tiers if tiered else TIERS,
        "acrossLevels": selector.across_levels if tiered else 0,
    }


def _start(
    example: Example, network: RegionProposalNetwork, maps: Sequence[Tensor], first: int
) -> tuple[int, int, int, int]:
    """Level (of those that are there), row, column and j of the anchor looked at first."""
    predictions = network(example.images)
    k, grids = network.anchors.num_anchors, [feature.shape[-2:] for feature in maps]
    if example.start is None:
        boxes, size = torch.as_tensor(example.boxes).float(), example.pixels.shape[:2]
        ignore = torch.zeros(len(boxes), dtype=torch.bool)
        label = network.assigner(predictions.anchors, boxes, ignore, size).label
        logits = predictions.logits[0].where(label == OBJECT, predictions.logits[0] - 1000)
        skipped = sum(predictions.anchors.num_per_level[:first])
        best, level = skipped + int(logits[skipped:].argmax()), first
        best -= skipped
        while best >= predictions.anchors.num_per_level[level]:
            best, level = best - predictions.anchors.num_per_level[level], level + 1
        row, column = divmod(best // k[level], grids[level][1])
        return level - first, row, column, best % k[level]
    level, row, column = example.start
    if level < first:  # its map is left out: the cell over the same place on the finest that is there
        row, column = (at * grids[first][axis] // grids[level][axis] for axis, at in enumerate((row, column)))
        level = first
    logits = predictions.levels[level].logits[0, :, row, column]
    return level - first, row, column, int(logits.argmax())


def _notes(network: RegionProposalNetwork, whole: bool, first: int) -> list[str]:
    """Where the page differs from the run, in sentences."""
    notes = []
    if first:
        strides = ", ".join(map(str, network.anchors.strides[:first]))
        notes.append(
            f"The levels of stride {strides} are left out: with their maps the file would be larger than 3 MB."
        )
    if not whole:
        notes.append("The 3×3 convolution is already applied to the maps: the page trains the 1×1 convolutions alone.")
    if isinstance(network, RefinedRPN):
        notes.append("The run looks again at its best boxes and moves them; the page shows what it says before.")
    parts = (network.criterion, SmoothL1Loss), (network.assigner, (MaxIoUAssigner, ATSSAssigner))
    instead = ("the paper's smooth L1, whose numbers can be checked by hand", "the two usual assigners")
    for (part, known), page in zip(parts, instead, strict=True):
        if not isinstance(part, known):
            notes.append(f"The run was trained with {type(part).__name__}; the page shows {page}.")
    return notes


# ------------------------------------------------------------------------------------------------------ the file


def _picture(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + b64encode(file.getvalue()).decode()


def _base64(values: Tensor) -> str:
    return b64encode(values.detach().float().contiguous().numpy().astype("<f4").tobytes()).decode()


def _file(name: str) -> str:
    return resources.files("anchorlab.plots.anchors_page").joinpath(name).read_text(encoding="utf-8")
