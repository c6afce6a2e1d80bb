"""The explain.py command: follows one image, and one location in it, from pixels to recall, and keeps every step.

h, w a level's grid | k anchors per location | A anchors of the image | N candidates | P proposals | G boxes
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from anchorlab.build import build_validation_data
from anchorlab.config.composition import settings_of
from anchorlab.console import Column, TextTable, console
from anchorlab.data.batch import Batch, Item, collate, target_of
from anchorlab.data.decode import decode, read_sample
from anchorlab.data.sample import Record
from anchorlab.errors import SettingError, user_sentences
from anchorlab.plots import explain as explain_pictures
from anchorlab.plots.anchors_page.page import Example, as_page
from anchorlab.plots.boxes import FOUND_IOU, save
from anchorlab.plots.explain import Place, Steps
from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.network import Predictions, RegionProposalNetwork
from anchorlab.rpn.variants import RefinedRPN
from anchorlab.runs.files import make_folder, write_whole
from anchorlab.trained.images import list_images
from anchorlab.trained.load import Trained, check_classes, load_asked_for
from anchorlab.trained.plain import require_plain


def run_from_command_line(config: DictConfig) -> None:
    """What explain.py does with a composed config."""
    with user_sentences():
        plain = settings_of(config)
        for path in explain(plain):
            console().print(str(path), markup=False, soft_wrap=True)


def explain(config: Mapping[str, Any]) -> list[Path]:
    """Print the numbers of one location, and draw every step into `output`, or make one page of all; the files.

    Raises:
        SettingError: no such network, image, location or level.
    """
    trained = load_asked_for(config)
    record, known = find_image(trained, config["image"], config["allow"])
    steps = follow(trained, record, known, config["at"], config["level"], config["top"])
    for line in in_words(steps):
        console().print(line, soft_wrap=True, markup=False)
    console().print(numbers_table(steps))
    folder = make_folder(Path(str(config["output"])).expanduser(), "output")
    if config["format"] == "html":
        chosen = config["at"] is not None or config["level"] is not None
        return [write_page(trained, record, steps, folder, chosen)]
    files = []
    for number, (name, figure) in enumerate(explain_pictures.all_of(steps).items(), start=1):
        files.append(folder / f"{number}_{name}.png")
        save(figure, files[-1])
    return files


def write_page(trained: Trained, record: Record, steps: Steps, folder: Path, from_place: bool) -> Path:
    """The page that answers by touch, with the head of this network inside: anchors.html in the folder.

    from_place: whether it begins with the location of the steps, or with an anchor that is labelled object.
    """
    batch, place = _batch(trained, record), steps.place
    example = Example(
        name=steps.name,
        run=trained.name,
        pixels=steps.image,
        images=trained.network.prepare(batch.images, batch.sizes),
        boxes=np.zeros((0, 4), np.float32) if steps.truth is None else steps.truth,
        start=(place.level, place.row, place.column) if from_place else None,
    )
    try:
        page = as_page(trained.network, example)
    except ValueError as error:
        raise SettingError(str(error)) from error
    path = folder / "anchors.html"
    write_whole(path, page.encode())
    return path


def find_image(trained: Trained, name: str, allow: Sequence[str] = ()) -> tuple[Record, bool]:
    """The image of that name, and whether its boxes are known: those of the run's validation split are.

    Raises:
        SettingError: neither a file nor an id of that split.
    """
    path = Path(str(name)).expanduser()
    for record in _validation_records(trained, allow):
        if str(record.image_id) == str(name) or (path.is_file() and record.path.resolve() == path.resolve()):
            return record, True
    if not path.is_file():
        raise SettingError(f"image={name} is no file, and no image of the run's validation split has this id")
    return list_images(str(path)).record(0), False


@torch.no_grad()
def follow(
    trained: Trained, record: Record, known: bool, at: Sequence[float] | None, level: int | None, top: int
) -> Steps:
    """Every step of one image.

    Args:
        at: (x, y) in its pixels of the location that is followed; None: that of the best proposal.
        level: of it; None: that of its best score.
    """
    network = trained.network
    require_plain(network, "explain.py", selectors=None, second_look=True)
    batch = _batch(trained, record)
    images = network.prepare(batch.images, batch.sizes)
    features = network.backbone(images)
    outputs = network.head(features)
    predictions = network(images)
    (proposals,) = network.propose(predictions, batch.sizes)
    height, width = batch.sizes[0].tolist()
    scale = batch.scales[0].flip(0)  # (y, x) -> (x, y)
    best = int(proposals.anchor[0]) if len(proposals.anchor) else 0
    place = _place(network, predictions, best, _point(at, record, scale), level)
    per_anchor = outputs[place.level][0].shape[1] // network.anchors.num_anchors[place.level]
    anchors, deltas = predictions.anchors.boxes[place.anchors], predictions.deltas[0, place.anchors]
    return Steps(
        image=batch.images[0].permute(1, 2, 0).numpy()[:height, :width],
        original=(record.height, record.width),
        name=str(record.image_id),
        strides=network.backbone.strides,
        features=[feature[0].abs().mean(0).float().numpy() for feature in features],
        channels=network.backbone.channels,
        place=place,
        scores=outputs[place.level][0][0, :, place.row, place.column].view(-1, per_anchor).float().numpy(),
        probability_maps=predictions.levels[place.level].logits[0].float().sigmoid().numpy(),
        logits=predictions.logits[0, place.anchors].numpy(),
        deltas=deltas.numpy(),
        anchors=anchors.numpy(),
        decoded=network.coder.decode(anchors, deltas).numpy(),
        num_anchors=len(predictions.anchors.boxes),
        candidates=_candidates(network, predictions, (height, width)),
        proposals=proposals.boxes.numpy(),
        proposal_scores=proposals.scores.numpy(),
        selection=network.selector.of_level(place.level).selection,
        looked_at_again=isinstance(network, RefinedRPN),
        truth=_truth(record, scale) if known else None,
        top=top,
    )


def in_words(steps: Steps) -> list[str]:
    """The steps as sentences with their numbers."""
    place, (height, width) = steps.place, steps.image.shape[:2]
    grid = steps.features[place.level].shape
    stride, k = steps.strides[place.level], len(steps.anchors)
    candidates = f"{len(steps.candidates):,} candidates"
    if steps.looked_at_again:
        candidates = f"A second look pools features inside the best boxes, scores and moves them again: {candidates}"
    per_anchor = "2 scores" if steps.scores.shape[1] == 2 else "1 score"
    lines = [
        f"1. {steps.name}: {steps.original[1]} x {steps.original[0]} pixels, the network sees {width} x {height}.",
        "2. Feature maps (height x width x channels): "
        + ", ".join(f"{f.shape[0]} x {f.shape[1]} x {steps.channels}" for f in steps.features)
        + f"; strides {', '.join(map(str, steps.strides))}.",
        f"3. Location row {place.row}, column {place.column} of the {grid[0]} x {grid[1]} map (stride {stride}) "
        f"has k = {k} anchors; the image has {steps.num_anchors:,}.",
        f"4. The head says {per_anchor} and 4 deltas about each of them (table), {k * steps.scores.shape[1]} + {4 * k} "
        "numbers: what they mean is the anchors' matter.",
        "5. The same weights say it at every location of the map: the followed one is one of "
        f"{grid[0]} x {grid[1]} = {grid[0] * grid[1]:,}.",
        "6. Decoded, the deltas move and stretch each anchor to a box.",
        f"7. {candidates} go into {steps.selection}, {len(steps.proposals):,} proposals come out.",
    ]
    if steps.truth is not None:
        lines.append(
            f"8. The best {steps.top} find {int(steps.found.sum())} of {len(steps.truth)} boxes at IoU {FOUND_IOU:g}: "
            f"recall@{steps.top} of this image is {steps.found.mean() if len(steps.found) else 0:.2f}."
        )
    return lines


def numbers_table(steps: Steps) -> TextTable:
    """One row an anchor of the location: its shape, scores, logit, probability, deltas and box."""
    heads, rows = explain_pictures.number_columns(steps)
    table = TextTable([Column(head) for head in heads], "One location's numbers")
    for row in rows:
        table.add(*row)
    return table


def _validation_records(trained: Trained, allow: Sequence[str]) -> list[Record]:
    """Validation records of the run's own data set; none if the data set is missing."""
    group = trained.config["data"]
    if "reader" not in group:
        return []
    check_classes(group, trained.file, allow)
    try:
        return build_validation_data({**group, "on_error": "skip", "cache": None}).val_records
    except (ValueError, OSError):
        return []


def _batch(trained: Trained, record: Record) -> Batch:
    """The image as the network gets it, alone in a batch."""
    sample, scale = read_sample(record, *trained.resize)
    return collate([Item(sample, scale, 0, target_of(record))], trained.pad_to)


def _point(at: Sequence[float] | None, record: Record, scale: Tensor) -> list[float] | None:
    """`at` in pixels of the input."""
    if at is None:
        return None
    if len(at) != 2 or at[0] >= record.width or at[1] >= record.height:
        raise SettingError(
            f"at={list(at)} lies outside the image of {record.width} x {record.height} pixels, or is no x,y"
        )
    return (torch.as_tensor(at, dtype=torch.float64) * scale).tolist()


def _place(
    network: RegionProposalNetwork, predictions: Predictions, best: int, point: list[float] | None, level: int | None
) -> Place:
    """The location of the anchor `best`, or the one whose cell holds `point` (x, y)."""
    anchors, count = predictions.anchors, network.anchors.num_anchors
    starts = np.cumsum([0, *anchors.num_per_level])
    grids = [(len(grid.y1), len(grid.x1)) for grid in anchors.levels]
    if level is not None and not 0 <= level < len(grids):
        raise SettingError(f"level={level} does not exist: this network has levels 0 to {len(grids) - 1}")
    if point is None and level is None:
        at = int(np.searchsorted(starts, best, side="right")) - 1
        row, column = divmod((best - int(starts[at])) // count[at], grids[at][1])
        return _numbered(at, row, column, starts, count, grids)
    if point is None:
        boxes = anchors.boxes[best]
        point = [float(boxes[0] + boxes[2]) / 2, float(boxes[1] + boxes[3]) / 2]
    places = [
        _numbered(i, *_cell(anchors, i, point), starts, count, grids)
        for i in range(len(grids))
        if level is None or i == level
    ]
    return max(places, key=lambda place: float(predictions.logits[0, place.anchors].max()))


def _cell(anchors: Anchors, level: int, point: list[float]) -> tuple[int, int]:
    """Row and column whose anchors are centred nearest to a point."""
    grid = anchors.levels[level]
    x, y = (grid.x1 + grid.x2).mean(1) / 2, (grid.y1 + grid.y2).mean(1) / 2
    return int((y - point[1]).abs().argmin()), int((x - point[0]).abs().argmin())


def _numbered(
    level: int, row: int, column: int, starts: np.ndarray, count: Sequence[int], grids: Sequence[tuple[int, int]]
) -> Place:
    first = int(starts[level]) + (row * grids[level][1] + column) * count[level]
    return Place(level, row, column, torch.arange(first, first + count[level]))


def _candidates(network: RegionProposalNetwork, predictions: Predictions, size: tuple[int, int]) -> np.ndarray:
    found = network.candidates(predictions, 0, size)[-1]
    order = found.scores[0].argsort(descending=True)
    limits = torch.tensor([size[1], size[0], size[1], size[0]])
    return found.boxes[0, order].clamp(min=torch.zeros(4), max=limits).numpy()


def _truth(record: Record, scale: Tensor) -> np.ndarray:
    boxes = decode(record).boxes[~record.ignore]
    return boxes * np.tile(scale.numpy(), 2).astype(np.float32)
