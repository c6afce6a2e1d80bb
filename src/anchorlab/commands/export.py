"""The export.py command: writes the network in other formats, compares each with PyTorch on real images, adds a model
card.
"""

import itertools
import json
import logging
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from anchorlab.build import build_validation_data
from anchorlab.config.composition import settings_of
from anchorlab.console import console
from anchorlab.data.batch import padded, target_of
from anchorlab.data.decode import read_image, read_resized
from anchorlab.data.resize import resized, target_size
from anchorlab.data.sample import Record
from anchorlab.errors import FAILED, SettingError, user_sentences
from anchorlab.metrics.recall import ProposalRecall
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.runs.files import make_folder, write_whole
from anchorlab.trained import model_card, package, usage
from anchorlab.trained.device import settings_for
from anchorlab.trained.graph import LARGEST, exported_program, require_expressible, smallest_side
from anchorlab.trained.images import list_images
from anchorlab.trained.load import Trained, check_classes, load_asked_for, load_trained, network_settings
from anchorlab.trained.proposer import Proposer

CARD = "MODEL_CARD.md"
EQUAL = 1e-4
"""Of boxes in image sides, of scores absolute: as close as a proposal has to be to count as the same."""

ALIKE = 0.99
"""Share of the proposals that have to be: the last bit of a number can move an overlap over the threshold of NMS."""

EQUAL_AR = 1e-3
"""As close as AR@N of a file has to be to that of evaluate.py."""

GRAPHS = (".pt2", ".onnx")
"""Of the files that hold the whole graph."""

SCORED = ("AR_10", "AR_100", "AR_1000")

Outputs = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
"""Of a graph: boxes and scores; of one for several images at a time, padded, and how many are of each image."""

Propose = Callable[[Tensor], tuple[Tensor, Tensor]]
"""An image (1, 3, H, W) uint8 -> boxes (P, 4) and scores (P,) in its pixels."""


@dataclass(frozen=True)
class Check:
    """One file on one image: how many of PyTorch's proposals it has, and the largest difference of those.

    proposals: of PyTorch. given: of the file.
    """

    file: str
    size: tuple[int, int]
    proposals: int
    given: int
    same: int
    largest_difference: float
    milliseconds: float
    milliseconds_pytorch: float

    @property
    def passed(self) -> bool:
        return self.same >= ALIKE * max(self.proposals, self.given)

    def __str__(self) -> str:
        height, width = self.size
        more = f" and {self.given - self.proposals:,} more" if self.given > self.proposals else ""
        return (
            f"{self.file} at {height} x {width}: {self.same:,} of {self.proposals:,} proposals the same{more}, "
            f"largest difference {self.largest_difference:.1e}; "
            f"{self.milliseconds:.0f} ms, PyTorch {self.milliseconds_pytorch:.0f} ms"
        )


@dataclass(frozen=True)
class MetricsCheck:
    """One file, used by the lines of the model card in a fresh process: its AR beside evaluate.py's in float32."""

    file: str
    images: int
    metrics: dict[str, float]
    evaluated: dict[str, float]

    @property
    def passed(self) -> bool:
        return all(abs(self.metrics[name] - value) <= EQUAL_AR for name, value in self.evaluated.items())

    def __str__(self) -> str:
        pairs = (
            f"{name.replace('_', '@')} {self.metrics[name]:.4f} (evaluate.py {value:.4f})"
            for name, value in self.evaluated.items()
        )
        return f"{self.file}, used as the model card says, on {self.images} images: {', '.join(pairs)}"


def run_from_command_line(config: DictConfig) -> None:
    """What export.py does with a composed config; exit code 1 where a file does not give PyTorch's proposals."""
    with user_sentences():
        plain = settings_of(config)
        files, checks = export(plain)
    for path in files:
        console().print(str(path), markup=False, soft_wrap=True)
    if not all(check.passed for check in checks):
        print("error: a file does not give the proposals or the AR of PyTorch, see above", file=sys.stderr)
        raise SystemExit(FAILED)


def export(config: Mapping[str, Any]) -> tuple[list[Path], list[Check | MetricsCheck]]:
    """Write every format and the model card into `output`; what was written, and how it compared.

    Raises:
        SettingError: no such network, one that cannot be expressed, a package or images that are missing.
    """
    trained = load_asked_for(config)
    threads = config["threads"] or settings_for(trained.config.get("trainer"), trained.network, "cpu", 32).threads
    torch.set_num_threads(threads)
    formats = list(config["formats"])
    if "onnx" in formats:
        _require_onnx()
    images: list[Tensor] = []
    if formats != ["safetensors"]:
        require_expressible(trained.network)  # before images are looked for
        images = _images(trained, config)
    output = config["output"] or Path("export", trained.folder.name)
    folder = make_folder(Path(str(output)).expanduser(), "output")
    about = model_card.facts(trained)
    files: list[Path] = []
    runners: dict[str, Propose] = {}
    if "safetensors" in formats:
        settings = {"config": kept_settings(trained.config), "about": about}
        files += package.write(folder, trained.network.state_dict(), settings)
        runners["model.safetensors"] = reference(load_trained(folder, allow=config["allow"]).network, trained.pad_to)
    for path, runner in graphs(trained, formats, folder, threads, config["batch"]):
        files.append(path)
        runners[path.name] = runner
    checks: list[Check | MetricsCheck] = [
        *compare(reference(trained.network, trained.pad_to), runners, images, config["repeats"], config["batch"])
    ]
    if formats != ["safetensors"]:
        records = _annotated(trained, config)
        checks += compare_metrics(trained, list(runners), folder, records, config["allow"], config["batch"])
    for check in checks:
        console().print(str(check), markup=False, soft_wrap=True)
    page = model_card.as_page(
        about,
        trained.config,
        [path.name for path in files],
        list(map(str, checks)),
        _usage(trained, list(runners), config["allow"], config["batch"]),
    )
    write_whole(folder / CARD, page.encode())
    results = [asdict(check) for check in checks]
    write_whole(folder / "export.json", f"{json.dumps(results, indent=2)}\n".encode())
    return [*files, folder / CARD, folder / "export.json"], checks


def graphs(
    trained: Trained, formats: Sequence[str], folder: Path, threads: int, batch: int = 1
) -> Iterator[tuple[Path, Propose]]:
    """The files that hold the whole graph, each with what runs it."""
    if not set(formats) & {"torch", "onnx"}:
        return
    program = exported_program(trained.network, trained.pad_to, batch)
    if "torch" in formats:
        path = save_program(program, folder / "model.pt2")
        yield path, one_of_batch(program_runner(path), batch)
    if "onnx" in formats:
        path = save_onnx(program, folder / "model.onnx")
        yield path, one_of_batch(onnx_runner(path, threads), batch)


def one_of_batch(run: Callable[[Tensor], Outputs], batch: int) -> Propose:
    """What a graph of `batch` images finds in one among others, which is a different one of them at each call."""
    rows = itertools.cycle(range(batch))

    def alone(image: Tensor) -> tuple[Tensor, Tensor]:
        row = next(rows)
        images = image.flip(3).repeat(batch, 1, 1, 1)
        images[row] = image[0]
        found = run(images)
        if len(found) == 2:
            return found
        boxes, scores, num = found
        return boxes[row, : num[row]], scores[row, : num[row]]

    return alone


def kept_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What builds the network and says how images are resized for it; no path of this machine."""
    data = config["data"]
    return {
        **network_settings(config),
        "data": {key: data.get(key) for key in ("short", "long")} | {"pad_to": data.get("pad_to", 1)},
    }


def reference(network: RegionProposalNetwork, pad_to: int = 1) -> Propose:
    """PyTorch's own answer, on images padded as evaluate.py and propose.py pad them."""

    @torch.no_grad()
    def run(image: Tensor) -> tuple[Tensor, Tensor]:
        sizes = torch.tensor([image.shape[-2:]])
        (found,) = network.propose(network(network.prepare(padded(image, pad_to), sizes)), sizes)
        return found.boxes, found.scores

    return run


def save_program(program: torch.export.ExportedProgram, path: Path) -> Path:
    """model.pt2, as `torch.export.load` reads it."""
    content = BytesIO()
    torch.export.save(program, content)
    write_whole(path, content.getbuffer())
    return path


def program_runner(path: Path) -> Callable[[Tensor], Outputs]:
    module = torch.export.load(path).module()
    return torch.no_grad()(lambda images: module(images))


def save_onnx(program: torch.export.ExportedProgram, path: Path) -> Path:
    """model.onnx: input `image` (B, 3, height, width) uint8, outputs `boxes` and `scores`, and `num` where B > 1."""
    from onnxscript.optimizer import fold_constants_ir, remove_unused_nodes

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    names = ["boxes", "scores", "num"][: len(program.graph_signature.user_outputs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Matching its rewriting rules took the exporter half of its time; runtimes rewrite a graph as they load it.
        converted = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["image"], output_names=names, optimize=False
        )
    assert converted is not None
    fold_constants_ir(converted.model)
    remove_unused_nodes(converted.model)
    for node in converted.model.graph:
        node.metadata_props.clear()  # where in Python each comes from, with paths of this machine
    write_whole(path, converted.model_proto.SerializeToString())
    return path


def onnx_runner(path: Path, threads: int) -> Callable[[Tensor], Outputs]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: tuple(map(torch.from_numpy, session.run(None, {"image": images.numpy()})))  # pyright: ignore


def compare(
    pytorch: Propose, others: Mapping[str, Propose], images: Sequence[Tensor], repeats: int, batch: int = 1
) -> list[Check]:
    """Every other runner against PyTorch on every image, timed in turn; of graphs of a batch the time of an image."""
    checks = []
    for image in images:
        boxes, scores = pytorch(image)
        for file, run in others.items():
            given = run(image)
            same, difference = agreement((boxes, scores), given, max(image.shape[-2:]))
            times = [(_seconds(run, image), _seconds(pytorch, image)) for _ in range(repeats)]
            theirs, ours = (1000 * statistics.median(column) for column in zip(*times, strict=True))
            theirs /= batch if Path(file).suffix in GRAPHS else 1
            size = (image.shape[-2], image.shape[-1])
            checks.append(Check(file, size, len(scores), len(given[1]), same, difference, theirs, ours))
    return checks


def agreement(wanted: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor], side: int) -> tuple[int, float]:
    """How many proposals of `wanted` are in `given`, no two by the same, and the largest difference of those.

    A difference is the larger of the boxes', in image sides, and of the scores'.
    """
    if len(wanted[1]) == 0 or len(given[1]) == 0:
        return 0, 0.0
    boxes = (wanted[0][:, None] - given[0]).abs().amax(dim=2) / side  # (P, Q)
    scores = (wanted[1][:, None] - given[1]).abs()
    nearest, index = boxes.maximum(scores).min(dim=1)
    same = nearest <= EQUAL
    return len(index[same].unique()), float(nearest[same].max()) if same.any() else 0.0


def compare_metrics(
    trained: Trained,
    files: Sequence[str],
    folder: Path,
    records: Sequence[Record],
    allow: Sequence[str] = (),
    batch: int = 1,
) -> list[MetricsCheck]:
    """AR of each file of `folder`, as the model card uses it, and of `evaluate.py precision=32 eval.batch_size=1`."""
    if not records or not files:
        return []
    proposer = Proposer(trained)
    evaluated = metrics_of(records, [proposer(read_image(record)) for record in records])
    checks = []
    for file in files:
        photos = [record.path for record in records]
        found = usage.run_program(_usage(trained, [file], allow, batch)[file], folder / file, photos)
        checks.append(MetricsCheck(file, len(records), metrics_of(records, found), evaluated))
    return checks


def metrics_of(records: Sequence[Record], found: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """AR, by `SCORED`, of each image's boxes and scores."""
    recall = ProposalRecall()
    for row, (record, (boxes, scores)) in enumerate(zip(records, found, strict=True)):
        recall.update(row, boxes, scores, *target_of(record))
    metrics = recall.compute()
    return {name: metrics[name] for name in SCORED}


def _annotated(trained: Trained, config: Mapping[str, Any]) -> list[Record]:
    """The run's validation images that AR is compared on: those that a graph takes; none where the model knows none."""
    if not config["scored"] or config["photos"] is not None or "reader" not in trained.config["data"]:
        return []
    records = _records(trained, config)
    sides = [target_size(record.height, record.width, *trained.resize) for record in records]
    return [record for record, size in zip(records, sides, strict=True) if _taken(trained, *size)][: config["scored"]]


def _usage(trained: Trained, files: Sequence[str], allow: Sequence[str], batch: int) -> dict[str, str]:
    return {file: usage.program(file, *trained.resize, allow, batch) for file in files}


def _images(trained: Trained, config: Mapping[str, Any]) -> list[Tensor]:
    """Three images, each at one of three sizes, all (1, 3, H, W) uint8."""
    short, long = trained.resize
    records = _records(trained, config)
    sizes: list[int] = config["sizes"] or _sizes(trained, records[0])
    images = []
    for size, record in zip(sizes, records[:3] * len(sizes), strict=False):
        height, width = target_size(record.height, record.width, *resized(short, long, size))
        if not _taken(trained, height, width):
            raise SettingError(f"sizes={size} makes an image of {width} x {height} pixels: {_sides(trained)}")
        pixels = read_resized(record, *resized(short, long, size))
        images.append(torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous())
    return images


def _sizes(trained: Trained, record: Record) -> list[int]:
    """Those to check at where none are asked for: around the size trained with.

    Raises:
        SettingError: a network without one, or one that no graph takes.
    """
    given = [(key, side) for key, side in zip(("short", "long"), trained.resize, strict=True) if side is not None]
    if not given:
        raise SettingError(
            "sizes=null needs a network of one input size, and this one takes images as they are: sizes=[320,416,600]"
        )
    key, side = given[0]
    height, width = target_size(record.height, record.width, *trained.resize)
    if not _taken(trained, height, width):
        least = math.ceil(1.25 * side * smallest_side(trained.network) / min(height, width))
        raise SettingError(
            f"the run's images have {width} x {height} pixels (data.{key}={side}), and of model.pt2 and model.onnx "
            f"{_sides(trained)}: formats=[safetensors], or sizes=[{least},{2 * least}] for use at other sizes"
        )
    smaller_too = _taken(trained, round(0.75 * height), round(0.75 * width))
    return [round(share * side) for share in ((0.75, 1, 1.25) if smaller_too else (1, 1.25, 1.5))]


def _taken(trained: Trained, height: int, width: int) -> bool:
    """Whether a graph takes an image of these sides."""
    return smallest_side(trained.network) <= min(height, width) <= max(height, width) <= LARGEST


def _sides(trained: Trained) -> str:
    return f"sides go from {smallest_side(trained.network)} to {LARGEST}"


def _records(trained: Trained, config: Mapping[str, Any]) -> list[Record]:
    if config["photos"] is not None:
        listed = list_images(config["photos"], megapixels=trained.megapixels)
        return [listed.record(row) for row in range(min(3, len(listed.paths)))]
    group = trained.config["data"]
    if "reader" not in group:
        raise SettingError(
            f"run={trained.file} is an exported model, which knows no images: give some, photos=<folder>"
        )
    check_classes(group, trained.file, config["allow"])
    try:
        return build_validation_data(group).val_records
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise SettingError(
            f"the run's validation images cannot be read ({first}): give others, photos=<folder>"
        ) from error


def _require_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise SettingError(
            f"formats: onnx needs {error.name}: pip install 'anchorlab[export]', or formats=[safetensors,torch]"
        ) from error


def _seconds(run: Propose, image: Tensor) -> float:
    started = time.perf_counter()
    run(image)
    return time.perf_counter() - started
