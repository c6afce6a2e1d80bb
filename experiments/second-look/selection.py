"""Other ways to choose proposals from what one trained network with a second look has found: AR@N of each.

python experiments/second-look/selection.py <run folder> [<run folder> ...]

Nothing is trained again. The images are those that the run was scored on; boxes are compared in the network's pixels.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

import anchorlab
from anchorlab.build import build_validation_data
from anchorlab.rpn import refine
from anchorlab.rpn.network import as_pairs
from anchorlab.rpn.proposals.nms import Candidates
from anchorlab.rpn.proposals.tiered_nms import TieredNMSSelector
from anchorlab.rpn.refine import SecondLook, both
from anchorlab.rpn.variants import RefinedRPN
from anchorlab.trained.load import load_trained

BUDGETS = (10, 50, 100, 300, 1000)
TIERS = anchorlab.compose("proposals=tiered")["proposals"]["tiers"]
Scores = Callable[[Tensor, Tensor], Tensor]


class Image(NamedTuple):
    """What the network found on one image, and what is there to find."""

    size: tuple[int, int]
    first: Candidates
    looked: Candidates  # those that were looked at: the moved and behind them the unmoved
    scores: tuple[Tensor, Tensor]  # of the first and of the second look, of each that was looked at
    again: tuple[Tensor, Tensor]  # score and box of a third look, at the moved boxes
    boxes: Tensor
    ignore: Tensor


@torch.no_grad()
def images_of(run: Path) -> Iterator[Image]:
    trained = load_trained(run)
    data = build_validation_data(trained.config["data"], trained.config["seed"])
    network = trained.network
    if not isinstance(network, RefinedRPN):
        raise SystemExit(f"error: {run} has no second look: name a run with refine=roi.")
    said: list[tuple[Tensor, Tensor]] = []

    def overheard(first: Tensor, second: Tensor) -> Tensor:
        said.append((first, second))
        return both(first, second)

    refine.both = overheard
    for batch in track(list(data.val_dataloader()), str(run)):
        predictions = network(network.prepare(batch.images, batch.sizes))
        for i, size in enumerate(as_pairs(batch.sizes)):
            first, looked = network.candidates(predictions, i, size)
            scores = said.pop()
            maps = [level[i : i + 1] for level in predictions.maps]
            again = look(network.refine, maps, looked.boxes[0][: len(scores[0])], size)
            yield Image(size, first, looked, scores, again, batch.boxes[i], batch.ignore[i])


def look(
    second_look: SecondLook, maps: Sequence[Tensor], boxes: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The scores of a look at boxes, and where it moves them; those that have no area in the image stay."""
    inside = clip_boxes_to_image(boxes, size)
    whole = (inside[:, 2:] > inside[:, :2]).all(dim=1)
    logits, deltas = second_look(maps, [inside[whole]])
    scores, moved = logits.new_zeros(len(boxes)), inside.clone()
    scores[whole], moved[whole] = logits.sigmoid(), second_look.coder.decode(inside[whole], deltas)
    return scores, moved


def looked(image: Image, scores: Scores = both, unmoved: float = 0.8) -> Candidates:
    """Those that were looked at, moved, and behind them as they were, with the share `unmoved` of the score."""
    count = len(image.scores[0])
    score = scores(*image.scores)
    boxes = image.looked.boxes[0]
    kept = 2 if unmoved else 1
    return Candidates(
        boxes[: kept * count][None],
        torch.cat((score, unmoved * score))[: kept * count][None],
        image.looked.level[: kept * count],
        image.looked.anchor[:, : kept * count],
    )


def looked_twice(image: Image, scores: Scores) -> Candidates:
    """Where a third look moved them, and behind them as they were before the second, with 0.8 of the score."""
    score, boxes = scores(image.scores[1], image.again[0]), image.again[1]
    score = both(image.scores[0], score)
    count = len(score)
    unmoved = image.looked.boxes[0][count : 2 * count]
    return image.looked._replace(boxes=torch.cat((boxes, unmoved))[None], scores=torch.cat((score, 0.8 * score))[None])


def power(share: float, first: Tensor, second: Tensor) -> Tensor:
    """The geometric mean in which the second score has this share."""
    return first ** (1 - share) * second**share


CANDIDATES: dict[str, Callable[[Image], Candidates]] = {
    "first stage": lambda image: image.first,
    "moved": lambda image: looked(image, unmoved=0),
    "moved and unmoved": looked,
    "the same, ranked by the first score": lambda image: looked(image, lambda first, second: first),
    "the same, ranked by the second score": lambda image: looked(image, lambda first, second: second),
    "the second score counts 0.25": partial(looked, scores=partial(power, 0.25)),
    "the second score counts 0.75": partial(looked, scores=partial(power, 0.75)),
    "moved twice, scored by the third look": partial(looked_twice, scores=lambda second, third: third),
    "the same, scored by the mean of two": partial(looked_twice, scores=lambda second, third: (second + third) / 2),
}
SELECTORS = {
    "tiers": TieredNMSSelector(TIERS),
    "the first 20 across levels": TieredNMSSelector(TIERS, across_levels=20),
    "all across levels": TieredNMSSelector(TIERS, across_levels=1000),
    "tiers, 0.9 from 100 to 800": TieredNMSSelector([(c, 0.9 if c == 800 else iou) for c, iou in TIERS]),
}


def main(runs: list[str]) -> None:
    for run in runs:
        images = list(images_of(Path(run)))
        truth = [image.boxes for image in images]
        table = Table("candidates", "selection", *(f"AR@{n}" for n in BUDGETS), title=run)
        for name, candidates in CANDIDATES.items():
            found = [(image, candidates(image)) for image in images]
            for way, selector in SELECTORS.items():
                proposals = [selector.select(own, 0, image.size) for image, own in found]
                ignore = [image.ignore for image in images]
                recall = anchorlab.recall(proposals, truth, ignore=ignore, budgets=BUDGETS)
                table.add_row(name, way, *(f"{recall[f'AR_{n}']:.4f}" for n in BUDGETS))
        Console(width=130).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
