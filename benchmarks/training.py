"""Benchmark of a training step: AnchorLab's network against torchvision's RPN on the same backbone, images and boxes.

Torchvision's side is built as its documentation builds it (float32, contiguous, its allocator untouched), and once
more with the memory layout and the allocator's settings that AnchorLab chooses on a CPU. A step is forward, loss,
backward, gradient clipping and AdamW; parameters that do not train are the same on all sides. Each side is a process
of its own, as the allocator is the process's; they take their steps in turn.

B: images of a step, k: anchors per location.
"""

import multiprocessing
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner
from anchorlab.rpn.backbones.backbones import ResNetFPN
from anchorlab.rpn.backbones.timm_fpn import TimmFPN
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead as Head
from anchorlab.rpn.losses.box import SmoothL1Loss
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.rpn.samplers import BalancedSampler
from anchorlab.training.hardware import keep_freed_memory
from benchmarks.measure import Options, Row, interleaved, parse, peak_of_process, report, set_threads

STRIDES = (4, 8, 16, 32, 64)
SIZES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
NUM_BOXES = 15
LITE0 = "tf_efficientnet_lite0"

Step = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """B images of (height, width), 15 boxes on each."""

    backbone: str
    batch: int
    k: int
    size: tuple[int, int] = (480, 640)

    def __str__(self) -> str:
        return f"{self.backbone}, B = {self.batch}, {self.size[0]} x {self.size[1]}, k = {self.k}"

    @property
    def sizes(self) -> tuple[tuple[float, ...], ...]:
        """k / 3 sizes on each level."""
        count = self.k // len(RATIOS)
        return tuple(tuple(size * 2 ** (i / count) for i in range(count)) for size in SIZES)

    def images(self) -> Tensor:
        return torch.randn(self.batch, 3, *self.size, generator=torch.Generator().manual_seed(0))

    def boxes(self) -> list[Tensor]:
        """Per image (15, 4), sides from 12 to 400 pixels, inside the image where they fit."""
        generator = torch.Generator().manual_seed(0)
        sides = torch.exp(torch.empty(self.batch, NUM_BOXES, 2).uniform_(2.5, 6, generator=generator))
        room = (torch.tensor(self.size[::-1]) - sides).clamp(min=1)
        corners = torch.rand(sides.shape, generator=generator) * room
        return list(torch.cat((corners, corners + sides), dim=2))


CASES = (
    Case("resnet18", 4, 3),
    Case("resnet18", 8, 3),
    Case("resnet18", 4, 9),
    Case(LITE0, 4, 3),
    Case(LITE0, 8, 3),
    Case(LITE0, 4, 9),
)
QUICK_CASES = (Case("resnet18", 1, 3, (96, 128)),)


class TorchvisionNetwork(nn.Module):
    """Torchvision's backbone or a timm one with torchvision's FPN, and torchvision's RPN with its defaults."""

    def __init__(self, case: Case):
        super().__init__()
        if case.backbone == "resnet18":
            self.features: nn.Module = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=3)
        else:
            self.features = TimmFeatures(case.backbone)
        generator = AnchorGenerator(case.sizes, (RATIOS,) * len(SIZES))
        budget = {"training": 2000, "testing": 1000}
        self.rpn = TorchvisionRPN(generator, RPNHead(256, case.k), 0.7, 0.3, 256, 0.5, budget, budget, 0.7)

    def losses(self, images: Tensor, boxes: list[Tensor]) -> dict[str, Tensor]:
        sizes = [(images.shape[-2], images.shape[-1])] * len(images)
        targets = [{"boxes": image_boxes} for image_boxes in boxes]
        return self.rpn(ImageList(images, sizes), self.features(images), targets)[1]


class TimmFeatures(nn.Module):
    """A timm model on strides 4 to 32 with frozen batch norm, and torchvision's FPN."""

    def __init__(self, name: str):
        super().__init__()
        body: Any = timm.create_model(name, features_only=True, pretrained=False, out_indices=(1, 2, 3, 4))
        self.body = body
        self.fpn = FeaturePyramidNetwork(body.feature_info.channels(), 256, LastLevelMaxPool())
        for module in body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.fpn({str(i): feature for i, feature in enumerate(self.body(images))})


def our_network(case: Case) -> RegionProposalNetwork:
    backbone = ResNetFPN("resnet18", "none") if case.backbone == "resnet18" else TimmFPN(case.backbone, "none")
    anchors = AnchorGrid(case.sizes, RATIOS, strides=STRIDES)
    head = Head("sigmoid", in_channels=backbone.channels, num_anchors=anchors.num_anchors)
    assigner = MaxIoUAssigner(low_quality_floor=None, ignore_iof=None)
    parts = (DeltaCoder(), assigner, BalancedSampler(), SmoothL1Loss(), ProposalSelector())
    return RegionProposalNetwork(backbone, anchors, head, *parts)


def torchvision_step(case: Case, tuned: bool) -> Step:
    layout = torch.channels_last if tuned else torch.contiguous_format
    if tuned:
        keep_freed_memory()
    network = TorchvisionNetwork(case).train().to(memory_format=layout)  # type: ignore[call-overload]
    images, boxes = case.images().contiguous(memory_format=layout), case.boxes()
    return _optimized(network, lambda: sum(network.losses(images, boxes).values()))


def our_step(case: Case, sampled_only: bool = True) -> Step:
    keep_freed_memory()
    network = our_network(case).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, boxes = case.images().contiguous(memory_format=torch.channels_last), case.boxes()
    ignore = [torch.zeros(len(image_boxes), dtype=torch.bool) for image_boxes in boxes]
    generators = [torch.Generator().manual_seed(i) for i in range(case.batch)]

    def loss() -> Tensor:
        predictions = network.pending(images) if sampled_only else network(images)
        return network.loss(predictions, boxes, ignore, [case.size] * case.batch, generators).total

    return _optimized(network, loss)


def _optimized(network: nn.Module, loss: Callable[[], Any]) -> Step:
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10)
        optimizer.step()

    return step


SIDES: dict[str, Callable[[Case], Step]] = {
    "torchvision": lambda case: torchvision_step(case, tuned=False),
    "torchvision, tuned": lambda case: torchvision_step(case, tuned=True),
    "anchorlab, whole maps": lambda case: our_step(case, sampled_only=False),
    "anchorlab": our_step,
}


class Side:
    """A process that takes a step when it is called."""

    def __init__(self, name: str, case: Case, threads: int):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torchvision", "timm"])
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, name, case, threads), daemon=True)
        self.process.start()

    def __call__(self) -> None:
        self.connection.send(True)
        self.connection.recv()

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()

    def peak_mib(self) -> float:
        """Peak memory of the process so far."""
        self.connection.send(False)
        return self.connection.recv()


def _serve(connection: Connection, name: str, case: Case, threads: int) -> None:
    set_threads(threads)
    torch.manual_seed(0)
    step = SIDES[name](case)
    while True:
        connection.send(step() if connection.recv() else peak_of_process())


def compare(case: Case, options: Options, threads: int) -> list[Row]:
    """A row a side: how many times torchvision's images per second it has."""
    with ExitStack() as stack:
        sides = {name: stack.enter_context(Side(name, case, threads)) for name in SIDES}
        times = interleaved(dict(sides), options.num_repeats(5))
        peaks = {name: side.peak_mib() for name, side in sides.items()}
    base = times["torchvision"]
    return [
        {
            "case": str(case),
            "side": name,
            "images_per_s": case.batch / time.median,
            "times_torchvision": time.times_faster(base),
            "range_of_rounds": time.range_of_rounds(base),
            "peak_mib": peaks[name],
        }
        for name, time in times.items()
    ]


def main(options: Options) -> None:
    threads = options.threads or torch.get_num_threads()
    set_threads(threads)
    cases = QUICK_CASES if options.quick else CASES
    rows = [row for case in cases for row in compare(case, options, threads)]
    setting = {
        "layout": "channels_last; torchvision's untuned side: contiguous",
        "precision": "float32 on all sides",
        "repeats": options.num_repeats(5),
    }
    report(
        "training",
        "A training step takes less of the processor's time than torchvision's on the same backbone.",
        rows,
        setting,
        options,
        notes=["Tuned: channels_last, and freed memory kept. Whole maps: `trainer.sampled_only=false`."],
    )


if __name__ == "__main__":
    main(parse(__doc__))
