"""RPN head: a small network slid over all levels, giving scores and deltas; does not know which anchors they mean.

B images | k anchors per location | H, W the level's grid | level = index of a feature map, finest first
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from anchorlab.rpn.adaptive_conv import AlignedMap
from anchorlab.rpn.sampled_conv import PendingMap, linear
from anchorlab.signatures import Count, CountOrZero, InnerShare, NotNegative, checked

PAPER_STD = 0.01
"""Of the weights that the head starts with (Faster R-CNN, section 3.1.3)."""


class HeadOutput(NamedTuple):
    """What the head gives: of a level (B, channels, H, W), or of n locations."""

    scores: Tensor  # k or 2k channels; at locations one logit per anchor (n, k)
    deltas: Tensor  # 4k channels; at locations (n, k, 4)
    quality: Tensor | None  # k channels; at locations (n, k); None: the head has no such output


@checked
class RPNHead(nn.Module):
    """3x3 convolutions with ReLU, then two sibling 1x1 convolutions (Faster R-CNN, section 3.1).

    A 1x1 convolution is a linear layer applied at each location; nothing is fully connected over space. All
    weights are shared by the levels; where levels differ in k, those of equal k share one pair of 1x1
    convolutions.

    Args:
        objectness: "softmax": 2k scores, for each anchor background first and object second (the paper);
            "sigmoid": k scores (torchvision, Detectron2). Either way the rest sees one logit per anchor.
        channels: width of the 3x3 convolutions; None: as many as the backbone's.
        convs: number of 3x3 convolutions; 0 where a stage before makes the features (`cascade`).
        prior: probability of "object" that the biases start with; 0.5 is the paper's, biases of 0. With a focal loss
            over all anchors 0.01 (Lin et al. 2017, section 4.1).
        delta_std: standard deviation of the weights that the regression layers start with. With 0 every anchor predicts
            itself at first, however large the features are. The paper's 0.01 does nearly the same where features
            are of about unit size (VGG-16, ResNet); EfficientNet's are ten times as large, and then first boxes lie
            beside their anchors, where the losses of decoded boxes hardly lead back.
        in_channels: the backbone's channels.
        num_anchors: k of every level.
        quality: whether there is a third 1x1 convolution, to k numbers that say how well each box fits.

    All other weights start as normal(0, 0.01), biases as 0, as in the paper.
    """

    def __init__(
        self,
        objectness: Literal["softmax", "sigmoid"] = "softmax",
        channels: Count | None = None,
        convs: CountOrZero = 1,
        prior: InnerShare = 0.5,
        delta_std: NotNegative = PAPER_STD,
        *,
        in_channels: int,
        num_anchors: Sequence[int],
        quality: bool = False,
    ):
        super().__init__()
        _check(channels, convs, num_anchors)
        self.objectness = objectness
        self.prior = prior
        self.delta_std = delta_std
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
        self.quality = nn.ModuleDict({str(k): nn.Conv2d(width, k, 1) for k in distinct}) if quality else None
        self.apply(_init_as_paper)
        with torch.no_grad():
            for layer in self.deltas.values():
                cast(Tensor, layer.weight).mul_(delta_std / PAPER_STD)
        self._start_with_prior()

    @property
    def num_outputs(self) -> int:
        """2, scores and deltas; 3 with quality."""
        return 2 if self.quality is None else 3

    def forward(self, features: Sequence[Tensor]) -> list[HeadOutput]:
        """Per level (B, in_channels, H, W) -> scores (B, k or 2k, H, W), deltas (B, 4k, H, W), quality (B, k, H, W)."""
        hidden = [self.conv(feature) for feature in features]
        outputs = []
        for level, k in zip(hidden, self.num_anchors, strict=True):
            scores, deltas, quality = self._layers(k)
            outputs.append(HeadOutput(scores(level), deltas(level), None if quality is None else quality(level)))
        return outputs

    def at(self, level: int, feature: PendingMap | AlignedMap, locations: Tensor) -> HeadOutput:
        """What `forward` gives on a level, at n of its locations: logits (n, k), deltas (n, k, 4), quality (n, k)."""
        return self.at_hidden(level, feature.then(self.conv).at(locations))

    def at_hidden(self, level: int, hidden: Tensor) -> HeadOutput:
        """The same from what the 3x3 convolutions give at n locations (n, width)."""
        scores, deltas, quality = self._layers(self.num_anchors[level])
        return HeadOutput(
            self.logits(linear(scores, hidden)),
            linear(deltas, hidden).unflatten(1, (-1, 4)),
            None if quality is None else linear(quality, hidden),
        )

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

    def _layers(self, k: int) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d | None]:
        """The 1x1 convolutions of a level with k anchors per location."""
        key = str(k)
        quality = None if self.quality is None else cast(nn.Conv2d, self.quality[key])
        return cast(nn.Conv2d, self.scores[key]), cast(nn.Conv2d, self.deltas[key]), quality

    def _start_with_prior(self) -> None:
        logit = math.log(self.prior / (1 - self.prior))
        step = 2 if self.objectness == "softmax" else 1
        with torch.no_grad():
            for layer in self.scores.values():
                cast(Tensor, layer.bias)[step - 1 :: step] = logit


def flatten(maps: Tensor, per_anchor: int) -> Tensor:
    """(B, k * per_anchor, H, W) -> (B, H * W * k, per_anchor), in float32."""
    return maps.permute(0, 2, 3, 1).reshape(len(maps), -1, per_anchor).float()


def _check(channels: int | None, convs: int, num_anchors: Sequence[int]) -> None:
    if convs == 0 and channels is not None:
        raise ValueError(f"convs=0 leaves nothing that channels={channels} could be of: set one of them otherwise.")
    if not num_anchors or min(num_anchors) < 1:
        raise ValueError(f"anchor gives k={list(num_anchors)} anchors per location: every level needs at least one.")


def _init_as_paper(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=PAPER_STD)
        nn.init.zeros_(cast(Tensor, module.bias))
