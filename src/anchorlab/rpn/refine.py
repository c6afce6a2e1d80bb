"""Second look: pools features inside the best boxes, scores each again and moves it again; does not choose proposals.

An RPN's score and deltas are made of the features at an anchor's location, and know nothing of the box that the deltas
lead to. The second stage of a detector looks at that box (Fast R-CNN, Girshick 2015). Here it is asked, for objects of
any class, how well the box fits (IoU-Net, Jiang et al. 2018; OLN-Box, Kim et al. 2022) and how it should be moved.

What it pools is a pyramid's sum of levels *before* the last 3x3 convolutions. Those sums exist in training, too, where
the convolutions are computed at sampled locations alone: whole maps of them would double the time of a step.

B images | C channels | H, W a level's grid | R boxes of all images | S boxes that one image teaches | G its boxes
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, generalized_box_iou_loss

from anchorlab.rpn.boxes import paired_iou, pairwise_iof, pairwise_iou
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.proposals.nms import Candidates
from anchorlab.rpn.proposals.tiered_nms import first_of_nms
from anchorlab.rpn.roi_align import roi_align
from anchorlab.rpn.samplers import choose
from anchorlab.signatures import Count, NotNegative, Positive, PositiveShare, Share, checked

IGNORE_IOF = 0.5
"""A box of which this share lies in an ignored region does not teach that it is background."""

SHIFT, STRETCH = 0.35, 0.5
"""The farthest that copies of objects are moved, in sides, and stretched, as a logarithm: to an IoU of 0.2 or so."""

DELTA_WEIGHT = 0.1
"""Of smooth L1 of the deltas beside GIoU, as in `loss=giou`."""


class Looks(NamedTuple):
    """The boxes of one image that the second look learns from."""

    boxes: Tensor  # (S, 4), inside the image
    objects: Tensor  # (S, 4), the object that each overlaps most
    is_near: Tensor  # (S,) bool, whether it learns to be moved there


class SecondLookLosses(NamedTuple):
    """Weighted means over the boxes of a batch."""

    score: Tensor
    box: Tensor


@checked
class SecondLook(nn.Module):
    """A small class-agnostic head on RoIAlign: for each box the IoU that it will have, and deltas.

    It learns from the boxes that the first stage predicts at the anchors of its own loss, without gradient to those,
    and from copies of the objects, moved and stretched at random (IoU-Net, section 3.4): near ones, and of the others
    those that the first stage scores highest. In proposing it looks at the best `num` of all.

    Args:
        coder: of its deltas.
        num: boxes of an image that it looks at.
        nms_iou: those are thinned by NMS at this IoU before: of near duplicates one look is enough.
        unmoved: with this share of its score a box also stays a candidate as it was: boxes that move to one place would
            else leave no second try at an object.
        samples: boxes of an image that it learns from, of which at most half are near an object.
        near_iou: least IoU with an object of a box that is near it.
        bins: a box is pooled to bins x bins features.
        width: channels that are pooled, made of the backbone's by a 1x1 convolution on each level.
        channels: of its two fully connected layers.
        score_weight: factor of the loss of the score, binary cross-entropy with the IoU of the moved box.
        box_weight: factor of the loss of the boxes, 1 - GIoU and a tenth of smooth L1 of the deltas, summed over near
            boxes. Both are divided by the number of all.
        lr_factor: times the optimizer's learning rate: its layers begin from nothing. Configs of before
            it had a say have 1, today's 2 (conf/refine/roi.yaml).
        in_channels: the backbone's channels.
        strides: pixels per cell of every level.

    The last layer starts with zeros: at first no box moves.
    """

    def __init__(
        self,
        coder: DeltaCoder,
        num: Count = 2000,
        nms_iou: Share = 0.9,
        unmoved: PositiveShare = 0.8,
        samples: Count = 128,
        near_iou: PositiveShare = 0.5,
        bins: Count = 7,
        width: Count = 64,
        channels: Count = 256,
        score_weight: NotNegative = 1.0,
        box_weight: NotNegative = 1.0,
        lr_factor: Positive = 1.0,
        *,
        in_channels: int,
        strides: Sequence[int],
    ):
        super().__init__()
        self.coder = coder
        self.num = num
        self.nms_iou = nms_iou
        self.unmoved = unmoved
        self.samples = samples
        self.near_iou = near_iou
        self.bins = bins
        self.score_weight = score_weight
        self.box_weight = box_weight
        self.lr_factor = lr_factor
        self.strides = tuple(strides)
        self.narrow = nn.ModuleList(nn.Conv2d(in_channels, width, 1) for _ in strides)
        self.hidden = nn.Sequential(
            nn.Linear(bins**2 * width, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU()
        )
        self.score, self.deltas = nn.Linear(channels, 1), nn.Linear(channels, 4)
        for layer in (self.score, self.deltas):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (R,) and deltas (R, 4), float32, of boxes (R_i, 4) of each image, from maps (B, C, H, W) per level."""
        narrow = [layer(feature).relu() for layer, feature in zip(self.narrow, maps, strict=True)]
        images = [torch.full_like(own[:, 0], i, dtype=torch.int64) for i, own in enumerate(boxes)]
        pooled = roi_align(narrow, self.strides, torch.cat(images), torch.cat(list(boxes)), self.bins)
        hidden = self.hidden(pooled.flatten(1))
        return self.score(hidden).squeeze(1).float(), self.deltas(hidden).float()

    @torch.no_grad()
    def draw(
        self,
        found: Tensor,
        logits: Tensor,
        boxes: Tensor,
        ignore: Tensor,
        size: tuple[int, int],
        generator: torch.Generator,
    ) -> Looks:
        """What one image teaches: of boxes found by the first stage, with logits, and copies of objects.

        Args:
            found, logits: (F, 4) and (F,).
            boxes, ignore, size: the image's, as in `RegionProposalNetwork.loss`.
        """
        objects = boxes[~ignore].float()
        copies = copies_of(objects, self.samples, generator)
        looks = clip_boxes_to_image(torch.cat((found, copies)), size)
        whole = (looks[:, 2:] > looks[:, :2]).all(dim=1)
        best, index = _best(looks, objects)
        near = ((best >= self.near_iou) & whole).nonzero().squeeze(1)
        near = choose(near, self.samples // 2, generator)
        is_far = ((best < self.near_iou) & whole & ~_inside(looks, boxes[ignore].float()))[: len(found)]
        far = is_far.nonzero().squeeze(1)
        far = far[logits[far].topk(min(len(far), self.samples - len(near))).indices]
        rows = torch.cat((near, far))
        matched = objects[index[rows]] if len(objects) else looks.new_zeros(len(rows), 4)
        return Looks(looks[rows], matched, torch.arange(len(rows), device=rows.device) < len(near))

    def loss(self, maps: Sequence[Tensor], looks: Sequence[Looks], count: float | Tensor) -> SecondLookLosses:
        """From maps as in `forward`, and the looks of each image; `count`: what the sums are divided by."""
        logits, deltas = self(maps, [image.boxes for image in looks])
        boxes, objects, is_near = (torch.cat(field) for field in zip(*looks, strict=True))
        moved = self.coder.decode(boxes, deltas)
        score = F.binary_cross_entropy_with_logits(logits, paired_iou(moved.detach(), objects), reduction="sum")
        box = generalized_box_iou_loss(moved[is_near], objects[is_near], reduction="sum")
        wanted = self.coder.encode(boxes[is_near], objects[is_near])
        box = box + DELTA_WEIGHT * F.smooth_l1_loss(deltas[is_near], wanted, reduction="sum")
        return SecondLookLosses(self.score_weight * score / count, self.box_weight * box / count)

    @torch.no_grad()
    def candidates(self, maps: Sequence[Tensor], first: Candidates, size: tuple[int, int]) -> Candidates:
        """The best of the candidates moved, and behind them as they were; of one image, of (height, width), in a batch.

        The score of a moved box is the geometric mean of what both looks say, the probability of an object and the IoU.

        Raises:
            FloatingPointError: a score or box is NaN or infinite.
        """
        boxes, scores = clip_boxes_to_image(first.boxes[0], size), first.scores[0]
        whole = (boxes[:, 2:] > boxes[:, :2]).all(dim=1).nonzero().squeeze(1)
        order = whole[scores[whole].sort(descending=True, stable=True).indices]
        order = order[first_of_nms(boxes[order], scores[order], first.level[order], self.nms_iou, self.num)]
        logits, deltas = self(maps, [boxes[order]])
        moved = self.coder.decode(boxes[order], deltas)
        if not (logits.isfinite().all() and moved.isfinite().all()):
            raise FloatingPointError("The second look predicts NaN or infinite numbers: the training has diverged.")
        scores = both(scores[order], logits.sigmoid())
        return Candidates(
            torch.cat((moved, boxes[order]))[None],
            torch.cat((scores, self.unmoved * scores))[None],
            first.level[order].repeat(2),
            first.anchor[:, order].repeat(1, 2),
        )


def both(first: Tensor, second: Tensor) -> Tensor:
    """The geometric mean of two probabilities, which may be so small that their product is none."""
    return first.sqrt() * second.sqrt()


def copies_of(objects: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` boxes (count, 4) beside objects (G, 4), at all distances alike; none where there are no objects."""
    if len(objects) == 0:
        return objects
    index = torch.randint(len(objects), (count,), generator=generator, device=generator.device)
    along = torch.rand(count, 4, generator=generator, device=generator.device) * 2 - 1
    far = torch.rand(count, 1, generator=generator, device=generator.device)
    x, y, w, h = (along * far).to(objects.device).unbind(1)
    x1, y1, x2, y2 = objects[index.to(objects.device)].unbind(1)
    width, height = x2 - x1, y2 - y1
    middle_x, middle_y = (x1 + x2) / 2 + SHIFT * x * width, (y1 + y2) / 2 + SHIFT * y * height
    width, height = width * torch.exp(STRETCH * w) / 2, height * torch.exp(STRETCH * h) / 2
    return torch.stack((middle_x - width, middle_y - height, middle_x + width, middle_y + height), dim=1)


def _best(boxes: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """(F,) best IoU of each box (F, 4) with an object (G, 4), and which; 0 and 0 where there are none."""
    if len(objects) == 0:
        return boxes.new_zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    return pairwise_iou(boxes, objects).nan_to_num().max(dim=1)


def _inside(boxes: Tensor, regions: Tensor) -> Tensor:
    """(F,) bool, boxes (F, 4) that lie in an ignored region."""
    if len(regions) == 0:
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    return (pairwise_iof(boxes, regions).nan_to_num() >= IGNORE_IOF).any(dim=1)
