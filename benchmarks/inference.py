"""Inference, from images to proposals: propose.py's network, ONNX Runtime and the .pt2 against torchvision's RPN.

The same network on every side, with random weights, plain NMS and the same threads. Its proposals are compared first.
A second table says where the time of propose.py goes: decoding files, network, proposals.

B: images at a time.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from anchorlab.build import build_network
from anchorlab.cli.overrides import check_overrides
from anchorlab.commands.export import Outputs, agreement, onnx_runner, program_runner, save_onnx, save_program
from anchorlab.commands.propose import Worker
from anchorlab.data.batch import Batch
from anchorlab.trained.device import settings_for
from anchorlab.trained.graph import exported_program
from anchorlab.trained.images import list_images, parcels
from anchorlab.trained.load import Trained
from anchorlab.trained.torchvision import to_torchvision
from benchmarks.measure import Options, Row, interleaved, parse, report, set_threads

CONFIGS = Path(__file__).parents[1] / "conf"
TOP_N = 1000
LEAST_SHARED = 0.99
"""Of torchvision's proposals, that every side has to give: sums in another order exchange a few at the threshold."""

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """Photographs of (height, width) pixels, at `long` for the network."""

    backbone: str
    batch: int
    size: tuple[int, int] = (480, 640)
    long: int = 416

    def __str__(self) -> str:
        return f"{self.backbone}, {self.size[0]} x {self.size[1]} at {self.long} px"


CASES = tuple(Case(name, batch) for name in ("efficientnet_lite0_fpn", "resnet18_fpn") for batch in (1, 8))
QUICK_CASES = (Case("tiny", 2, (120, 160), 96),)


def trained_of(case: Case) -> Trained:
    """A network of random weights, which tell anchors apart, as if a run had trained it."""
    torch.manual_seed(0)
    anchors = ["anchor.scale=8", "proposals=torchvision"]
    weights = [] if case.backbone == "tiny" else ["backbone.weights=none"]
    words = [f"backbone={case.backbone}", *weights, *anchors, f"data.long={case.long}", "data.root=."]
    config = check_overrides("train", CONFIGS, words)
    network = build_network(config).eval()
    with torch.no_grad():
        for layer in (*network.head.scores.parameters(), *network.head.deltas.parameters()):
            layer.normal_(std=0.02)
    return Trained(network, config, Path("random"), None, None, None, {})


def photographs(case: Case, folder: Path) -> None:
    """One batch of JPEG files: noise that is smooth over some pixels, so that they are as large as photographs."""
    rng = np.random.default_rng(0)
    for i in range(case.batch):
        coarse = rng.integers(0, 256, (case.size[0] // 8, case.size[1] // 8, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.jpg"), cv2.resize(coarse, case.size[::-1], interpolation=cv2.INTER_CUBIC))


def decoded(case: Case, trained: Trained, folder: Path) -> Batch:
    """The files as propose.py reads them, in this process."""
    listed = list_images(str(folder))
    (parcel,) = parcels(listed, [range(case.batch)], trained.resize, trained.pad_to, case.batch, workers=0)
    (batch,) = parcel.batches
    return batch


def worker_of(trained: Trained, threads: int, precision: int | None) -> Worker:
    machine = settings_for(None, trained.network, "cpu", precision)
    machine.prepare_process()
    worker = Worker(trained, machine, None)
    set_threads(threads)
    return worker


def sides(trained: Trained, batch: Batch, folder: Path, threads: int) -> dict[str, Call]:
    """From uint8 images of the network's size to boxes and scores of each."""
    count = len(batch.images)
    height, width = batch.sizes[0].tolist()
    images = batch.images[:, :, :height, :width].contiguous()
    program = exported_program(trained.network, trained.pad_to, count)
    files = save_program(program, folder / "model.pt2"), save_onnx(program, folder / "model.onnx")
    pt2, onnx = program_runner(files[0]), onnx_runner(files[1], threads)
    exact, usual = worker_of(trained, threads, 32), worker_of(trained, threads, None)
    model: Any = to_torchvision(trained)

    @torch.no_grad()
    def by_torchvision() -> list[tuple[Tensor, Tensor]]:
        # Its own resizing would interpolate once more, to the size that the images have.
        normal = [model.transform.normalize(image / 255) for image in images]
        padded = model.transform.batch_images(normal, trained.pad_to)
        features = list(model.backbone(padded).values())
        # The steps of RegionProposalNetwork.forward, which drops the scores.
        listed = ImageList(padded, [(height, width)] * count)
        anchors = model.rpn.anchor_generator(listed, features)
        maps = model.rpn.head(features)
        num_per_level = [scores[0].numel() for scores in maps[0]]
        logits, deltas = concat_box_prediction_layers(*maps)
        decoded = model.rpn.box_coder.decode(deltas, anchors).view(count, -1, 4)
        found = model.rpn.filter_proposals(decoded, logits, listed.image_sizes, num_per_level)
        return list(zip(*found, strict=True))

    def by_us(worker: Worker) -> Call:
        return lambda: [(p.boxes, p.scores) for p in worker.propose(worker.predict(batch), batch)]

    def by_graph(run: Callable[[Tensor], Outputs]) -> Call:
        def call() -> list[tuple[Tensor, Tensor]]:
            found = run(images)
            if len(found) == 2:
                return [found]
            boxes, scores, num = found
            return [(boxes[i, : num[i]], scores[i, : num[i]]) for i in range(count)]

        return call

    how = f"{usual.machine.precision}, {'channels_last' if usual.machine.channels_last else 'contiguous'}"
    return {
        "torchvision": by_torchvision,
        "propose.py, float32": by_us(exact),
        f"propose.py as it decides: {how}": by_us(usual),
        "model.pt2": by_graph(pt2),
        "model.onnx": by_graph(onnx),
    }


def check_equal(calls: dict[str, Call], side: int) -> None:
    """Of the sides that compute in float32."""
    wanted = calls["torchvision"]()
    for name, call in calls.items():
        if "decides" in name:
            continue
        for theirs, ours in zip(wanted, call(), strict=True):
            shared, _ = agreement(theirs, ours, side)
            assert shared >= LEAST_SHARED * len(theirs[1]) > 0, f"{name}: {shared} of {len(theirs[1])} proposals"


def measure(case: Case, options: Options) -> tuple[list[Row], Row]:
    """The rows of both tables."""
    threads = options.threads or 1
    trained = trained_of(case)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "photos")
        folder.mkdir()
        photographs(case, folder)
        batch = decoded(case, trained, folder)
        calls = sides(trained, batch, Path(scratch), threads)
        check_equal(calls, case.long)
        repeats = options.num_repeats(9)
        timing = interleaved(calls, repeats)
        usual = worker_of(trained, threads, None)
        predictions = usual.predict(batch)
        steps = {
            "decoding": lambda: decoded(case, trained, folder),
            "network": lambda: usual.predict(batch),
            "proposals": lambda: usual.propose(predictions, batch),
        }
        spent = {name: one.ms / case.batch for name, one in interleaved(steps, repeats).items()}
    setting: Row = {"case": str(case), "B": case.batch}
    rows = [
        {
            **setting,
            "side": name,
            "images/s": case.batch / one.median,
            "times faster than torchvision": one.times_faster(timing["torchvision"]),
            "in single rounds": one.range_of_rounds(timing["torchvision"]),
        }
        for name, one in timing.items()
    ]
    total = sum(spent.values())
    shares = {f"{name} ms": value for name, value in spent.items()}
    return rows, {**setting, **shares, **{f"{name} share": value / total for name, value in spent.items()}}


def main(options: Options) -> None:
    set_threads(options.threads or 1)
    measured = [measure(case, options) for case in (QUICK_CASES if options.quick else CASES)]
    setting = {"layout": "see the table", "precision": "see the table", "repeats": options.num_repeats(9)}
    claim = "Images a second from uint8 at the network's size to proposals, the same on every side."
    notes = ["Random weights: their boxes overlap less than those of a trained network, of which NMS leaves fewer."]
    report("inference", claim, [row for rows, _ in measured for row in rows], setting, options, notes)
    claim = "Where the time of propose.py goes: milliseconds an image, and shares."
    notes = ["Decoding in this process; propose.py has loading processes for it."]
    report("inference-shares", claim, [row for _, row in measured], setting, options, notes)


if __name__ == "__main__":
    main(parse(__doc__))
