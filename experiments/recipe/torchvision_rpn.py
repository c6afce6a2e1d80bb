"""torchvision's own RPN as the network of a run: the baseline that the recipes are measured against.

    python experiments/recipe/torchvision_rpn.py data=voc data.root=<folder> [what train.py takes]

Data, backbone, optimizer, schedule and scoring are those of `python train.py experiment=recipe`; anchors, head,
assignment, sampling, loss and NMS are torchvision's code. The checkpoint is one of ours, so that evaluate.py and
compare.py read the run.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN
from torchvision.models.detection.rpn import RPNHead

from anchorlab.build import build_network
from anchorlab.cli.overrides import check_command_line
from anchorlab.commands.train import run_from_command_line
from anchorlab.config.composition import VERSION_BASE
from anchorlab.rpn.losses.box import LossCounts
from anchorlab.rpn.network import Losses, RegionProposalNetwork, Sizes, as_pairs
from anchorlab.rpn.predictions import Outputs
from anchorlab.rpn.proposals.nms import Proposals

CONFIGS = Path(__file__).resolve().parents[2] / "conf"
SETTINGS = (
    "experiment=recipe",
    "anchor=torchvision",
    "head=sigmoid",
    "head.delta_std=0.01",
    "assigner=torchvision",
    "proposals=torchvision",
    "trainer.sampled_only=false",
    "callbacks.pictures.images=0",  # they and the outcome of each anchor read our predictions
    "callbacks.outcome.images=0",
)
TOP_N = {"training": 2000, "testing": 1000}  # of torchvision's detectors, before and after NMS


class Maps(NamedTuple):
    """What torchvision's RPN is called with."""

    images: Tensor  # (B, 3, H, W)
    features: list[Tensor]  # one (B, channels, h, w) per level


class Network(RegionProposalNetwork):
    """Our network with forward, loss and proposals by torchvision's code, on the weights of our backbone and head."""

    def __init__(self, ours: RegionProposalNetwork, anchors: AnchorGenerator) -> None:
        parts = (ours.backbone, ours.anchors, ours.head, ours.coder, ours.assigner, ours.sampler)
        super().__init__(*parts, ours.criterion, ours.selector)
        rpn = TorchvisionRPN(anchors, SharedHead(ours), 0.7, 0.3, 256, 0.5, TOP_N, TOP_N, 0.7)
        self._rpn = (rpn,)  # in a tuple: no module of its own, as its weights have their names already

    @property
    def learns_from_few(self) -> bool:
        return False

    def forward(self, images: Tensor) -> Any:
        return Maps(images, self.backbone(images))

    def loss(
        self,
        predictions: Any,
        boxes: Sequence[Tensor],
        ignore: Sequence[Tensor],
        sizes: Sizes,
        generators: Sequence[torch.Generator],
        average: Callable[[LossCounts], LossCounts] | None = None,
    ) -> Losses:
        """torchvision's, which knows no ignored regions, draws by torch's own random numbers and counts nothing."""
        targets = [{"boxes": box[~ignored].float()} for box, ignored in zip(boxes, ignore, strict=True)]
        _, losses = self._run(predictions, sizes, targets)
        unknown = losses["loss_objectness"].new_full((len(boxes),), math.nan)
        iou = unknown.mean()
        said = Outputs(unknown[:0], unknown.new_zeros(0, 4), None)
        return Losses(losses["loss_objectness"], losses["loss_rpn_box_reg"], unknown, unknown, {}, iou, iou, [], said)

    def propose(self, predictions: Any, sizes: Sizes) -> list[Proposals]:
        """torchvision gives boxes, best first, without scores: these say the order alone."""
        found, _ = self._run(predictions, sizes)
        return [_in_order(boxes) for boxes in found]

    def _run(
        self, maps: Maps, sizes: Sizes, targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        rpn = self._rpn[0].train(targets is not None)
        # In float32: torchvision's anchors take the type of the maps, and bf16 rounds a corner at 300 px to 2 px.
        features = {str(level): feature.float() for level, feature in enumerate(maps.features)}
        return rpn(ImageList(maps.images, as_pairs(sizes)), features, targets)


class SharedHead(RPNHead):
    """torchvision's head on the convolutions of ours; gives float32, as boxes decoded from bf16 would be bf16."""

    def __init__(self, ours: RegionProposalNetwork) -> None:
        k = ours.head.num_anchors[0]
        super().__init__(ours.backbone.channels, k)
        self.conv[0][0] = ours.head.conv[0]  # pyright: ignore[reportIndexIssue]
        self.cls_logits = cast(nn.Conv2d, ours.head.scores[str(k)])
        self.bbox_pred = cast(nn.Conv2d, ours.head.deltas[str(k)])

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in deltas]


def torchvision_network(config: Mapping[str, Any]) -> Network:
    sizes, ratios = config["anchor"]["sizes"], config["anchor"]["ratios"]
    anchors = AnchorGenerator(tuple((size,) for size in sizes), (tuple(ratios),) * len(sizes))
    return Network(build_network(config), anchors)


def _in_order(boxes: Tensor) -> Proposals:
    nothing = boxes.new_zeros(len(boxes), dtype=torch.int64)
    return Proposals(boxes, torch.linspace(1, 0, len(boxes), device=boxes.device), nothing, nothing)


@hydra.main(**VERSION_BASE, config_path=str(CONFIGS), config_name="train")
def main(config: DictConfig) -> None:
    OmegaConf.update(config, "rpn", "torchvision", force_add=True)  # compare.py tells the runs apart by it
    run_from_command_line(config, torchvision_network)


if __name__ == "__main__":
    sys.argv[1:1] = SETTINGS
    check_command_line("train", CONFIGS)
    main()
