"""The RPN's head: a small network slid over all levels; what its channels mean is the anchors' matter.

B images | k anchors per location | H, W the level's grid | level = index of a feature map, finest first
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from anchorlab.rpn.sparse import PendingMap, linear

OBJECTNESS = ("softmax", "sigmoid")


class RPNHead(nn.Module):
    """3x3 convolutions with ReLU, then two sibling 1x1 convolutions (Faster R-CNN, section 3.1).

    A 1x1 convolution is a linear layer applied at each location; nothing is fully connected over space. All
    weights are shared by the levels; where levels differ in k, those of equal k share one pair of 1x1
    convolutions.

    Args:
        objectness: "softmax": 2k scores, for each anchor background first and object second (the paper);
            "sigmoid": k scores (torchvision, Detectron2). Either way the rest sees one logit per anchor.
        channels: width of the 3x3 convolutions; None: as many as the backbone's.
        convs: number of 3x3 convolutions.
        in_channels: the backbone's channels.
        num_anchors: k of every level.

    Weights start as normal(0, 0.01), biases as 0, as in the paper.
    """

    def __init__(
        self,
        objectness: str = "softmax",
        channels: int | None = None,
        convs: int = 1,
        *,
        in_channels: int,
        num_anchors: Sequence[int],
    ):
        super().__init__()
        _check(objectness, channels, convs, num_anchors)
        self.objectness = objectness
        self.in_channels = in_channels
        self.num_anchors = tuple(num_anchors)
        width = in_channels if channels is None else channels
        scores_per_anchor = 2 if objectness == "softmax" else 1
        layers = []
        for conv in range(convs):
            layers += [nn.Conv2d(width if conv else in_channels, width, kernel_size=3, padding=1), nn.ReLU()]
        self.conv = nn.Sequential(*layers)
        distinct = sorted(set(self.num_anchors))
        self.scores = nn.ModuleDict({str(k): nn.Conv2d(width, scores_per_anchor * k, 1) for k in distinct})
        self.deltas = nn.ModuleDict({str(k): nn.Conv2d(width, 4 * k, 1) for k in distinct})
        self.apply(_init_as_paper)

    def forward(self, features: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Per level (B, in_channels, H, W) -> scores (B, k or 2k, H, W) and deltas (B, 4k, H, W)."""
        outputs = []
        for feature, k in zip(features, self.num_anchors, strict=True):
            hidden = self.conv(feature)
            outputs.append((self.scores[str(k)](hidden), self.deltas[str(k)](hidden)))
        return outputs

    def at(self, level: int, feature: PendingMap, locations: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives on a level, at n of its locations: logits (n, k) and deltas (n, k, 4)."""
        k = str(self.num_anchors[level])
        hidden = feature.then(self.conv).at(locations)  # (n, width)
        scores = linear(cast(nn.Conv2d, self.scores[k]), hidden)
        deltas = linear(cast(nn.Conv2d, self.deltas[k]), hidden)
        return self.logits(scores), deltas.unflatten(1, (-1, 4))

    def logits(self, scores: Tensor) -> Tensor:
        """One logit per anchor (B, k, ...) from the scores of a level (B, k or 2k, ...).

        Softmax over (background, object) is the sigmoid of their difference, and its cross-entropy the
        binary one of that difference; so with the difference as the logit nothing after the head needs to
        know which was chosen.
        """
        if self.objectness == "sigmoid":
            return scores
        # In float32: under autocast both scores are bfloat16, and a small difference of theirs would be lost.
        return scores[:, 1::2].float() - scores[:, 0::2].float()


def _check(objectness: str, channels: int | None, convs: int, num_anchors: Sequence[int]) -> None:
    if objectness not in OBJECTNESS:
        raise ValueError(f"head.objectness={objectness}: choose one of {', '.join(OBJECTNESS)}.")
    if channels is not None and channels < 1:
        raise ValueError(f"head.channels={channels}: give a positive number, or null for the backbone's channels.")
    if convs < 1:
        raise ValueError(f"head.convs={convs}: the head needs at least one 3x3 convolution.")
    if not num_anchors or min(num_anchors) < 1:
        raise ValueError(f"anchor gives k={list(num_anchors)} anchors per location: every level needs at least one.")


def _init_as_paper(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(cast(Tensor, module.bias))
