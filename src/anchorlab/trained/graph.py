"""Graph of a network, image in and proposals out, for any image size: what torch.export and ONNX can express.

It computes what `RegionProposalNetwork.propose` does on images of one size, padded as in training. Only what depends on
the image's size in a way that a graph cannot follow is done otherwise: anchors are made of the maps' sizes, the top n
of a level is taken of its anchors and n more that lose, and what is dropped stays, with a score that loses, to the end.

B images, H, W their size | h, w a level's grid | k its anchors per location | n = pre_nms_top_n | P proposals
Q rows of an image, proposals and what was dropped
"""

import copy
import warnings
from collections.abc import Sequence
from typing import cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from anchorlab.errors import SettingError
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.backbones.backbones import Backbone
from anchorlab.rpn.heads import HeadOutput
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.rpn.refine import SecondLook, both
from anchorlab.rpn.variants import RefinedRPN
from anchorlab.trained.graph_selection import DROPPED, EXPRESSIBLE, GraphSelection, clipped
from anchorlab.trained.plain import require_plain

LARGEST = 8192
"""Longest side of an image that an exported graph takes."""

GRAPH = "An exported graph"
"""In sentences about networks that it cannot express."""


class Graph(nn.Module):
    """image (1, 3, H, W) uint8 RGB, at the network's size -> boxes (P, 4) in its pixels, scores (P,), best first.

    With `batch` B > 1: image (B, 3, H, W) -> boxes (B, Q, 4), scores (B, Q), num (B,): of each image the first num
    rows, and zeros behind them.

    Args:
        network: a plain one, perhaps with a second look; with plain or tiered NMS, with or without voting.
        pad_to: sides are padded to multiples of this, with zeros after normalisation, as in training: what a padding
            convolution computes near the border depends on it.
        batch: B.

    Raises:
        SettingError: a part that no graph can express.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: RegionProposalNetwork, pad_to: int = 1, batch: int = 1) -> None:
        super().__init__()
        require_expressible(network)
        self.pad_to, self.batch = pad_to, batch
        # Batch norm stays as trained: folded it moves last bits, and so proposals at a threshold of NMS.
        self.backbone = _with_symbolic_padding(copy.deepcopy(network.backbone)).eval()
        self.head = copy.deepcopy(network.head).eval()
        self.coder, self.selector = network.coder, network.selector
        self.selection = GraphSelection(network.selector)
        self.second_look = GraphSecondLook(network.refine, self.selection) if isinstance(network, RefinedRPN) else None
        self.anchors = nn.ModuleList(
            LevelAnchors(network.anchors, level) for level in range(len(network.anchors.strides))
        )
        self.register_buffer("mean", torch.tensor(network.backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(network.backbone.std).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        torch.ops.aten._assert_tensor_metadata(image, dtype=torch.uint8)  # 0..1 as float would look like black
        height, width = image.shape[-2:]
        padded = self._padded((image / 255 - self.mean) / self.std)
        features, sources = self._features(padded)
        maps = self.head(features)
        per_level = [anchors(level[1], padded) for level, anchors in zip(maps, self.anchors, strict=True)]
        found = [self._proposals(maps, sources, per_level, row, height, width) for row in range(self.batch)]
        if self.batch > 1:
            boxes, scores = (torch.stack(part) for part in zip(*found, strict=True))
            there = scores > DROPPED
            return boxes.where(there[:, :, None], 0.0), scores.where(there, 0.0), there.sum(dim=1)
        boxes, scores = found[0]
        wanted = (scores > DROPPED).nonzero().squeeze(1)
        return boxes[wanted], scores[wanted]

    def _features(self, padded: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What the head looks at, and what a second look does, where there is one."""
        if self.second_look is None:
            return self.backbone(padded), []
        backbone = cast(Backbone, self.backbone)
        levels = backbone.pending_on(backbone.plain_maps(padded))
        return [level.whole() for level in levels], [level.source for level in levels]

    def _proposals(
        self,
        maps: Sequence[HeadOutput],
        sources: Sequence[Tensor],
        anchors: Sequence[Tensor],
        row: int,
        height: int,
        width: int,
    ) -> tuple[Tensor, Tensor]:
        """Of one image: boxes (Q, 4) and scores (Q,), best first, `DROPPED` behind the last proposal."""
        boxes, scores = [], []
        for level, (output, own) in enumerate(zip(maps, anchors, strict=True)):
            logits = self.head.logits(output.scores)[row].permute(1, 2, 0).reshape(-1)  # (k, h, w) -> (h * w * k,)
            deltas = output.deltas[row].permute(1, 2, 0).reshape(-1, 4)
            found = self._candidates(self.selector.of_level(level), logits, deltas, own, height, width)
            boxes.append(found[0])
            scores.append(found[1])
        if self.second_look is not None:
            own = [level[row : row + 1] for level in sources]
            boxes, scores = self.second_look(own, boxes, scores, height, width)
        return self.selection(boxes, scores, height, width)

    def _padded(self, image: Tensor) -> Tensor:
        height, width = ((side + self.pad_to - 1) // self.pad_to * self.pad_to for side in image.shape[-2:])
        return F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]))

    def _candidates(
        self, selector: ProposalSelector, logits: Tensor, deltas: Tensor, anchors: Tensor, height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """The best of one level: boxes (n, 4) and scores (n,), `DROPPED` where a threshold takes them out."""
        n = cast(int, selector.pre_nms_top_n)
        nothing = torch.zeros(n, 4)
        top, index = torch.cat((logits, torch.full((n,), -torch.inf))).topk(n)
        decoded = self.coder.decode(torch.cat((anchors, nothing))[index], torch.cat((deltas, nothing))[index])
        boxes = clipped(decoded, height, width)
        scores = 1 / (1 + torch.exp(-top))  # ONNX Runtime's Sigmoid is an approximation, not monotone and 0 below -18
        keep = selector.large_enough(boxes) & (scores >= selector.score_threshold)
        return boxes, scores.where(keep, DROPPED)


class GraphSecondLook(nn.Module):
    """As `SecondLook.candidates`: of each level boxes (n, 4) and scores (n,) -> those looked at, moved and as before.

    Each level is given all of them, with a score that loses for those of other levels.
    """

    def __init__(self, refine: SecondLook, selection: GraphSelection) -> None:
        super().__init__()
        self.refine, self.selection = copy.deepcopy(refine).eval(), selection

    def forward(
        self, maps: Sequence[Tensor], boxes: Sequence[Tensor], scores: Sequence[Tensor], height: int, width: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        thinned = [
            score.where(self.selection.kept(here, score, self.refine.nms_iou), DROPPED)
            for here, score in zip(boxes, scores, strict=True)
        ]
        together, starts = torch.cat(thinned), torch.cat(list(boxes))
        level = torch.cat([torch.full_like(score, i, dtype=torch.int64) for i, score in enumerate(scores)])
        top, index = together.topk(min(self.refine.num, len(together)))
        starts, level = starts[index], level[index]
        logits, deltas = self.refine(maps, [starts])
        moved = clipped(self.refine.coder.decode(starts, deltas), height, width)
        again = both(top.clamp(min=0), 1 / (1 + torch.exp(-logits)))
        found, ranked = torch.cat((moved, starts)), torch.cat((again, self.refine.unmoved * again))
        selector = self.selection.selector
        keep = (top > DROPPED).repeat(2) & selector.large_enough(found) & (ranked >= selector.score_threshold)
        level, levels = level.repeat(2), range(len(boxes))
        return [found for _ in levels], [ranked.where(keep & (level == i), DROPPED) for i in levels]


class LevelAnchors(nn.Module):
    """The anchors of one level (h * w * k, 4) from its map (1, any, h, w); the numbers of `AnchorGrid`."""

    extent: Tensor

    def __init__(self, grid: AnchorGrid, level: int) -> None:
        super().__init__()
        self.stride, self.offset, self.inferred = grid.strides[level], grid.offset, grid.stride == "inferred"
        self.register_buffer("extent", grid.shapes[level] / 2, persistent=False)

    def forward(self, feature: Tensor, image: Tensor) -> Tensor:
        rows, columns = feature.shape[-2:]
        step_y = image.shape[-2] // rows if self.inferred else self.stride
        step_x = image.shape[-1] // columns if self.inferred else self.stride
        x = (torch.arange(columns, dtype=torch.float32) + self.offset) * step_x
        y = (torch.arange(rows, dtype=torch.float32) + self.offset) * step_y
        width, height = self.extent.unbind(1)
        x1, x2 = (x[:, None] - width).expand(rows, -1, -1), (x[:, None] + width).expand(rows, -1, -1)  # (h, w, k)
        y1 = (y[:, None, None] - height).expand(-1, columns, -1)
        y2 = (y[:, None, None] + height).expand(-1, columns, -1)
        return torch.stack((x1, y1, x2, y2), dim=-1).reshape(-1, 4)


def require_expressible(network: RegionProposalNetwork) -> None:
    """Raise SettingError where the network has a part that no graph can express."""
    instead = "; proposals=default or tiered replaces it, and evaluate.py says at which recall"
    require_plain(network, GRAPH, EXPRESSIBLE, instead, second_look=True)


def smallest_side(network: RegionProposalNetwork) -> int:
    """Shortest side of an image that an exported graph takes: every level then has two cells, and none is special."""
    return 2 * max(network.backbone.strides)


@torch.no_grad()
def exported_program(network: RegionProposalNetwork, pad_to: int = 1, batch: int = 1) -> torch.export.ExportedProgram:
    """The graph for `batch` images of any height and width from `smallest_side` to `LARGEST`.

    Raises:
        SettingError: a part that no graph can express.
    """
    graph = Graph(network, pad_to, batch).eval()
    example = torch.zeros(batch, 3, 232, 328, dtype=torch.uint8)
    sides = {
        2: torch.export.Dim("height", min=smallest_side(network), max=LARGEST),
        3: torch.export.Dim("width", min=smallest_side(network), max=LARGEST),
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torchvision's, about itself
            program = torch.export.export(graph, (example,), dynamic_shapes={"image": sides}, strict=False)
    except Exception as error:  # the tracer raises errors of many families
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SettingError(
            f"this network is no graph for images of any size ({first}): export formats=[safetensors], or train with "
            "another backbone"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine, which would go out with the file
    return program


class _SymbolicSame(nn.Module):
    """timm's convolution with TensorFlow's padding, whose own asks in Python how large the image is."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        conv, pads = self.conv, []
        for side, kernel, stride, dilation in zip(
            x.shape[-2:], conv.kernel_size, conv.stride, conv.dilation, strict=True
        ):
            cells = (side + stride - 1) // stride
            # In these terms the padded side, and so the next map's, is a short expression of the image's side.
            total = (cells - 1) * stride + (kernel - 1) * dilation + 1 - side
            pads.append((total // 2, total - total // 2))
        (top, bottom), (left, right) = pads
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def _with_symbolic_padding(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, Conv2dSame) and _never_negative(cast(nn.Conv2d, child)):
            setattr(module, name, _SymbolicSame(cast(nn.Conv2d, child)))
        else:
            _with_symbolic_padding(child)
    return module


def _never_negative(conv: nn.Conv2d) -> bool:
    """Whether a kernel is at least as large as its stride: the padding is then never below 0."""
    return all((k - 1) * d + 1 >= s for k, d, s in zip(conv.kernel_size, conv.dilation, conv.stride, strict=True))
