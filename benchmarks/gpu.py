"""Benchmark of a GPU: steps with ResNet-50-FPN at 800 px against torchvision's RPN, their operators, NMS, loading, and
a whole training.

On the device that ANCHORLAB_DEVICE names (`cuda`; by default the CPU, where it shows that it works). Every table is
written as soon as it is there, so that a run that is cut off leaves those before. `benchmarks/gpu.sh` runs it, and the
tests of the device, on a machine without network.

B: images of a step.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN
from torchvision.ops import batched_nms

from anchorlab.data.module import DataModule
from anchorlab.data.synthetic import SyntheticReader
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner
from anchorlab.rpn.backbones.backbones import ResNetFPN
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead as Head
from anchorlab.rpn.losses.box import SmoothL1Loss
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.rpn.samplers import BalancedSampler
from benchmarks.measure import Options, Row, interleaved, parse, report, set_threads

ROOT = Path(__file__).parents[1]
DEVICE = torch.device(os.environ.get("ANCHORLAB_DEVICE", "cpu"))
STRIDES = (4, 8, 16, 32, 64)
SIZES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
NUM_BOXES = 15
OPERATORS_SHOWN = 15
LOADED_BATCHES = 40

Step = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """B images of (height, width), 15 boxes on each; in bf16 where the precision says so."""

    backbone: str
    batch: int
    size: tuple[int, int]
    bf16: bool

    @property
    def precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(DEVICE.type, torch.bfloat16) if self.bf16 else nullcontext()

    def images(self) -> Tensor:
        images = torch.randn(self.batch, 3, *self.size, generator=torch.Generator().manual_seed(0))
        return images.to(DEVICE).contiguous(memory_format=torch.channels_last)

    def boxes(self) -> list[Tensor]:
        """Per image (15, 4), inside it where they fit."""
        generator = torch.Generator().manual_seed(0)
        sides = torch.exp(torch.empty(self.batch, NUM_BOXES, 2).uniform_(2.5, 6, generator=generator))
        room = (torch.tensor(self.size[::-1]) - sides).clamp(min=1)
        corners = torch.rand(sides.shape, generator=generator) * room
        return list(torch.cat((corners, corners + sides), dim=2).to(DEVICE))


CASES = tuple(Case("resnet50", batch, (800, 1344), bf16) for bf16 in (True, False) for batch in (8, 16))
QUICK_CASES = (Case("resnet18", 1, (96, 128), False),)


def our_network(case: Case) -> RegionProposalNetwork:
    backbone = ResNetFPN(case.backbone, "none")
    anchors = AnchorGrid([[size] for size in SIZES], RATIOS, strides=STRIDES)
    head = Head("sigmoid", in_channels=backbone.channels, num_anchors=anchors.num_anchors)
    assigner = MaxIoUAssigner(low_quality_floor=None, ignore_iof=None)
    parts = (DeltaCoder(), assigner, BalancedSampler(), SmoothL1Loss(), ProposalSelector())
    return RegionProposalNetwork(backbone, anchors, head, *parts)


def our_step(case: Case, sampled_only: bool = True) -> Step:
    network = our_network(case).train().to(DEVICE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, boxes = case.images(), case.boxes()
    ignore = [torch.zeros(len(image_boxes), dtype=torch.bool, device=DEVICE) for image_boxes in boxes]
    generators = [torch.Generator().manual_seed(row) for row in range(case.batch)]

    def loss() -> Tensor:
        predictions = network.pending(images) if sampled_only else network(images)
        return network.loss(predictions, boxes, ignore, [case.size] * case.batch, generators).total

    return _optimized(case, network, loss)


class TorchvisionNetwork(nn.Module):
    """torchvision's ResNet with FPN, and its RPN with its defaults."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.features = resnet_fpn_backbone(backbone_name=case.backbone, weights=None, trainable_layers=3)
        budget = {"training": 2000, "testing": 1000}
        generator = AnchorGenerator(tuple((size,) for size in SIZES), (RATIOS,) * len(SIZES))
        head = RPNHead(256, len(RATIOS))
        self.rpn = TorchvisionRPN(generator, head, 0.7, 0.3, 256, 0.5, budget, budget, 0.7)


def torchvision_step(case: Case) -> Step:
    network = TorchvisionNetwork(case).train().to(DEVICE)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, targets = case.images(), [{"boxes": boxes} for boxes in case.boxes()]
    batch = ImageList(images, [case.size] * case.batch)
    return _optimized(case, network, lambda: sum(network.rpn(batch, network.features(images), targets)[1].values()))


def _optimized(case: Case, network: nn.Module, loss: Callable[[], Any]) -> Step:
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        with case.precision:
            total = loss()
        total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10)
        optimizer.step()

    return step


SIDES: dict[str, Callable[[Case], Step]] = {
    "torchvision": torchvision_step,
    "anchorlab, whole maps": lambda case: our_step(case, sampled_only=False),
    "anchorlab": our_step,
}


def teraflop(case: Case) -> float:
    """Of forward and backward of one image through the whole maps: counted, not measured."""
    network = our_network(case).train().to("meta")
    image = torch.zeros(1, 3, *case.size, device="meta")
    with FlopCounterMode(display=False) as counter:
        maps = network.head(network.backbone(image))
        sum(output.scores.sum() + output.deltas.sum() for output in maps).backward()  # pyright: ignore[reportAttributeAccessIssue]
    return counter.get_total_flops() / 1e12


def steps(case: Case, options: Options) -> list[Row]:
    """A row a side: images/s, how many times torchvision's, and what a step takes of the device's memory."""
    sides = {name: make(case) for name, make in SIDES.items()}
    peaks = {name: _peak_mib(step) for name, step in sides.items()}
    times = interleaved(sides, options.num_repeats(11))
    work, base = teraflop(case), times["torchvision"]
    return [
        {
            "backbone": case.backbone,
            "B": case.batch,
            "size": f"{case.size[0]} x {case.size[1]}",
            "precision": "bf16" if case.bf16 else "float32",
            "side": name,
            "images_per_s": case.batch / time.median,
            "times_torchvision": time.times_faster(base),
            "range_of_rounds": time.range_of_rounds(base),
            "whole_maps_tflop_per_image": work,
            "peak_mib": peaks[name],
        }
        for name, time in times.items()
    ]


def _peak_mib(step: Step) -> float:
    """Of the device's memory while a step is taken, weights included; NaN on the CPU."""
    step()
    if DEVICE.type != "cuda":
        return float("nan")
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**20


def operators(case: Case) -> list[Row]:
    """Where the time of a step goes: the operators that take most of the device's, and of the processor's."""
    step = our_step(case)
    step()
    on_gpu = DEVICE.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        step()
    ms = {
        event.key: (event.self_device_time_total / 1000 if on_gpu else 0.0, event.self_cpu_time_total / 1000)
        for event in profiled.key_averages()
    }
    most = sorted(ms, key=lambda name: -ms[name][0 if on_gpu else 1])[:OPERATORS_SHOWN]
    return [{"operator": name, "device_ms": ms[name][0], "processor_ms": ms[name][1]} for name in most]


def nms(options: Options) -> list[Row]:
    """torchvision's NMS on the device, by the number of boxes of an image."""
    rows: list[Row] = []
    for count in (64,) if options.quick else (1000, 5000, 20000):
        generator = torch.Generator().manual_seed(0)
        corners = torch.rand(count, 2, generator=generator) * 1000
        boxes = torch.cat((corners, corners + 20 + 200 * torch.rand(count, 2, generator=generator)), 1).to(DEVICE)
        scores = torch.rand(count, generator=generator).to(DEVICE)
        level = torch.randint(5, (count,), generator=generator).to(DEVICE)

        def thin(boxes: Tensor = boxes, scores: Tensor = scores, level: Tensor = level) -> Tensor:
            return batched_nms(boxes, scores, level, 0.7)

        timing = interleaved({"nms": thin}, options.num_repeats(21))["nms"]
        rows.append({"boxes": count, "kept": len(thin()), "ms": timing.ms})
    return rows


def loading(options: Options, folder: Path) -> list[Row]:
    """Images of 800 px per second that the loading processes give, by their number."""
    cores = len(os.sched_getaffinity(0))
    size, images = ((64, 96), 16) if options.quick else ((800, 1088), 96)
    rows: list[Row] = []
    for workers in (1,) if options.quick else sorted({1, 2, cores // 2, cores} - {0}):
        reader = _reader(size, images)
        data = DataModule(reader, str(folder / "images"), batch_size=8, workers=workers, long=size[1])
        data.setup()
        loaded, started = 0, 0.0
        for number, batch in enumerate(_epochs(data, 2 if options.quick else LOADED_BATCHES)):
            if number == 0:
                started = time.perf_counter()  # the processes have started
            else:
                loaded += len(batch.images)
        rows.append({"workers": workers, "images_per_s": loaded / max(time.perf_counter() - started, 1e-9)})
    return rows


def _reader(size: tuple[int, int], images: int) -> Callable[..., SyntheticReader]:
    sizes = [12, min(size) // 2]

    def reader(root: str) -> SyntheticReader:
        return SyntheticReader(root=root, num_train=images, num_val=2, image_size=list(size), sizes=sizes)

    return reader


def _epochs(data: DataModule, batches: int) -> Any:
    """The first batches of as many epochs as they take."""
    loader, given = data.train_dataloader(), 0
    while True:
        for batch in loader:
            yield batch
            given += 1
            if given == batches:
                return


def training(options: Options, folder: Path) -> list[Row]:
    """A whole training on the built-in data, as a person starts it."""
    accelerator = "gpu" if DEVICE.type == "cuda" else "cpu"
    small = ["data.reader.num_train=8", "data.reader.num_val=2", "data.reader.image_size=[64,96]"]
    quick = [*small, "data.reader.sizes=[12,40]", "trainer.epochs=1", "data.workers=0"] if options.quick else []
    arguments = [f"trainer.accelerator={accelerator}", f"data.root={folder / 'drawn'}", "logger=csv", *quick]
    command = [sys.executable, str(ROOT / "train.py"), "data=synthetic", *arguments, f"hydra.run.dir={folder / 'run'}"]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    record = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    final = record["figures"]["final"]
    return [
        {
            "epochs": int(final["epoch"]),
            "seconds": time.perf_counter() - started,
            "fit_s": record["timings"]["fit_s"],
            "train_images_per_s": record["timings"]["train_images_per_s"],
            "AR_100": final["AR_100"],
            "recall_100": final["recall_100"],
        }
    ]


def main(options: Options) -> None:
    set_threads(options.threads or len(os.sched_getaffinity(0)))
    torch.backends.cudnn.benchmark = True
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "the CPU"
    setting = {"device": device, "layout": "channels_last on all sides", "precision": "as the table says"}
    cases: Sequence[Case] = QUICK_CASES if options.quick else CASES
    rows: list[Row] = []
    for case in cases:
        rows += steps(case, options)
        claim = "A training step on this device, against torchvision's RPN on the same backbone, images and boxes."
        report("gpu", claim, rows, {**setting, "repeats": options.num_repeats(11)}, options)
    setting = {**setting, "repeats": 1}
    report("gpu-operators", f"Where a step's time goes ({cases[0]}).", operators(cases[0]), setting, options)
    report("gpu-nms", "NMS, five levels, IoU 0.7.", nms(options), setting, options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        report("gpu-loading", "Batches of eight from JPEG files.", loading(options, folder), setting, options)
        report("gpu-training", "A whole training on the built-in data.", training(options, folder), setting, options)


if __name__ == "__main__":
    main(parse(__doc__))
