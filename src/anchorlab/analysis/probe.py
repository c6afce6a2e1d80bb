"""Probe: which of several anchor configurations would train to the best recall, found without training their networks.

    trunk = Trunk(backbone, tower, channels)                          # what all configurations share
    networks = {"scale 4": network_on(trunk), "scale 8": ...}         # heads of 1x1 convolutions alone
    found = probe(networks, data, Budget())                           # recall of each on held-out training images

Anchors act on the outermost layers of an RPN: they say what its two 1x1 convolutions should predict. So all that lies
before is trained once, on all configurations in turn, favouring none; then each configuration trains its own 1x1
convolutions on features that stay as they are, and is scored on training images that neither has seen. Validation
images are not touched.

A: anchors of one image | L: its locations on all levels | S: sampled anchors of a batch
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from anchorlab.data.batch import Batch, collate
from anchorlab.data.dataset import ImageDataset
from anchorlab.data.module import DataModule, divide, first_by_hash
from anchorlab.data.sample import DataError, Record
from anchorlab.metrics.recall import ProposalRecall
from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.assigners.max_iou import IGNORE, OBJECT, Assignment
from anchorlab.rpn.backbones.backbones import Backbone
from anchorlab.rpn.heads import HeadOutput, RPNHead
from anchorlab.rpn.network import RegionProposalNetwork, as_pairs
from anchorlab.rpn.predictions import Outputs, PendingPredictions
from anchorlab.rpn.sampled_conv import PendingMap
from anchorlab.rpn.samplers import Sampler, seeded
from anchorlab.rpn.targets import ImageTargets

Progress = Callable[[str, int, int], None]
"""What is done now, steps done, all steps."""

STAGES_DTYPE = torch.float16
POOLED_POSITIVES = 32
"""Locations of positive anchors that a configuration puts into an image's pool, at most."""
POOLED_OTHERS = 192
TRUNK_SAMPLE = 64
"""Anchors of an image that the trunk learns from: the 3x3 convolutions around them are nearly all of its cost."""


@dataclass(frozen=True)
class Budget:
    """How much a probe may do.

    images, held_out: of the training split, to fit to and to score on.
    trunk_steps, trunk_batch, trunk_lr: optimizer steps of what all share, images of each, learning rate at its highest.
    steps, batch, lr: the same of each configuration's own layers.
    seed: of images, order and samples: the same seed gives the same answer.
    """

    images: int = 150
    held_out: int = 40
    trunk_steps: int = 200
    trunk_batch: int = 4
    trunk_lr: float = 5e-4
    steps: int = 200
    batch: int = 8
    lr: float = 2e-3
    seed: int = 0


class Trunk(Backbone):
    """A backbone with the head's 3x3 convolutions behind it: all of an RPN that does not know its anchors.

    Args:
        tower: those convolutions, as `RPNHead.conv`.
        channels: of what they give.
    """

    def __init__(self, backbone: Backbone, tower: nn.Sequential, channels: int):
        super().__init__()
        self.backbone, self.tower = backbone, tower
        self.channels, self.strides = channels, backbone.strides
        self.mean, self.std, self.batch_norm = backbone.mean, backbone.std, backbone.batch_norm
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        return [level.whole() for level in self.pending(images)]

    def body_maps(self, images: Tensor) -> list[Tensor]:
        return self.backbone.body_maps(images)

    def pending_on(self, stages: Sequence[Tensor]) -> list[PendingMap]:
        return [level.then(self.tower) for level in self.backbone.pending_on(stages)]


@dataclass(frozen=True)
class _Image:
    """One image with what the body of the backbone makes of it; boxes in pixels of the network's input."""

    stages: list[Tensor]  # of STAGES_DTYPE, or the image itself where the body is to be trained
    input_size: tuple[int, int]
    size: tuple[int, int]
    boxes: Tensor
    ignore: Tensor


def probe(
    networks: Mapping[str, RegionProposalNetwork],
    data: DataModule,
    budget: Budget,
    train_body: bool = False,
    progress: Progress | None = None,
) -> dict[str, ProposalRecall]:
    """Recall of each configuration on held-out training images, from the same trunk, trained a little.

    Args:
        networks: all on one `Trunk`, which is trained here, as are their heads.
        train_body: the body of the backbone has no weights yet and learns too; otherwise its maps are computed once.

    Raises:
        DataError: fewer than two usable images with boxes in the training split.
    """
    return _Probe(networks, data, budget, train_body, progress or (lambda what, done, steps: None)).run()


class _Probe:
    def __init__(
        self,
        networks: Mapping[str, RegionProposalNetwork],
        data: DataModule,
        budget: Budget,
        train_body: bool,
        progress: Progress,
    ) -> None:
        self.networks = networks
        self.trunk = cast(Trunk, next(iter(networks.values())).backbone)
        assert all(network.backbone is self.trunk for network in networks.values())
        self.data, self.budget, self.train_body, self.progress = data, budget, train_body, progress

    def run(self) -> dict[str, ProposalRecall]:
        torch.manual_seed(self.budget.seed)
        fit, held_out = _choose(self.data, self.budget)
        images = [self._image(batch) for batch in self._batches(fit, "reading images")]
        self._train_trunk(images)
        for parameter in self.trunk.parameters():
            parameter.requires_grad_(False)
        self.trunk.eval()
        pool = _Pool(self._levels, images, self.networks, self.budget.seed, self.progress)
        for number, (name, network) in enumerate(self.networks.items()):
            self.progress(f"anchors {name}", number, len(self.networks))
            pool.train(name, network, self.budget)
        del images, pool
        return self._score(held_out)

    def _batches(self, records: Sequence[Record], what: str) -> Iterator[Batch]:
        """Each image as a batch of its own, not augmented."""
        dataset = ImageDataset(records, self.data.short, self.data.long)
        for row in range(len(dataset)):
            self.progress(what, row, len(dataset))
            yield collate([dataset[row]], self.data.pad_to)

    @torch.no_grad()
    def _image(self, batch: Batch) -> _Image:
        network = next(iter(self.networks.values()))
        pixels = network.prepare(batch.images, batch.sizes)
        height, width = pixels.shape[-2:]
        stages = [pixels] if self.train_body else [stage.to(STAGES_DTYPE) for stage in self.trunk.body_maps(pixels)]
        (size,) = as_pairs(batch.sizes)
        return _Image(stages, (int(height), int(width)), size, batch.boxes[0], batch.ignore[0])

    def _levels(self, image: _Image) -> list[PendingMap]:
        if self.train_body:
            return self.trunk.pending(image.stages[0])
        return self.trunk.pending_on([stage.float() for stage in image.stages])

    def _train_trunk(self, images: Sequence[_Image]) -> None:
        """Train what all share on all configurations in turn, one a step; their heads learn along."""
        budget = self.budget
        own = [p for network in self.networks.values() for p in network.head.parameters()]
        shared = [p for p in self.trunk.parameters() if p.requires_grad]
        optimizer = AdamW([*shared, *own], lr=budget.trunk_lr)
        order = _Order(len(images), budget.seed)
        networks = list(self.networks.values())
        samplers = [network.sampler for network in networks]
        for network in networks:
            network.sampler = _smaller(network.sampler)
        for step in range(budget.trunk_steps):
            self.progress("what all anchors share", step, budget.trunk_steps)
            network = networks[step % len(networks)]
            optimizer.zero_grad()
            for row in order.take(budget.trunk_batch):
                image, levels = images[row], self._levels(images[row])
                anchors = _anchors(network, levels, image.input_size)
                predictions = PendingPredictions(levels, network.head, anchors)
                generator = seeded(budget.seed, 2, step, row)
                loss = network.loss(predictions, [image.boxes], [image.ignore], [image.size], [generator])
                (loss.total / budget.trunk_batch).backward()
            nn.utils.clip_grad_norm_([*shared, *own], 10.0)
            _take_step(optimizer, budget.trunk_lr, step, budget.trunk_steps)
        for network, sampler in zip(networks, samplers, strict=True):
            network.sampler = sampler

    @torch.no_grad()
    def _score(self, records: Sequence[Record]) -> dict[str, ProposalRecall]:
        recalls = {name: ProposalRecall() for name in self.networks}
        for batch in self._batches(records, "scoring"):
            assert batch.targets is not None
            image = self._image(batch)
            levels = self._levels(image)
            maps = [level.whole() for level in levels]
            for name, network in self.networks.items():
                predictions = network.predict(maps, _anchors(network, levels, image.input_size))
                (found,) = network.propose(predictions, [image.size])
                boxes = batch.to_original(0, found.boxes)
                recalls[name].update(int(batch.index[0]), boxes, found.scores, *batch.targets[0])
        return recalls


class _Pool:
    """Features at some locations of every fit image, at which all configurations are trained.

    Only there are the 3x3 convolutions evaluated: at positives of each configuration, and at random locations.
    """

    def __init__(
        self,
        levels_of: Callable[[_Image], list[PendingMap]],
        images: Sequence[_Image],
        networks: Mapping[str, RegionProposalNetwork],
        seed: int,
        progress: Progress,
    ) -> None:
        self.images = images
        self.grids: list[list[tuple[int, int]]] = []
        self.places: list[Tensor] = []  # (L,) int64: row of `features`, -1 where not pooled
        self.labels: dict[str, list[Assignment]] = {name: [] for name in networks}
        features, count = [], 0
        for row, image in enumerate(images):
            progress("features", row, len(images))
            generator = seeded(seed, 0, row)
            with torch.no_grad():
                levels = levels_of(image)
                self.grids.append([level.grid for level in levels])
                chosen = self._chosen(image, levels, networks, generator)
                parts = [level.at(here) for level, here in zip(levels, self._split(chosen, row), strict=True)]
            place = torch.full((sum(h * w for h, w in self.grids[row]),), -1)
            place[chosen] = torch.arange(count, count + len(chosen))
            count += len(chosen)
            self.places.append(place)
            features.append(torch.cat(parts).to(STAGES_DTYPE))
        self.features = torch.cat(features)

    def _chosen(
        self,
        image: _Image,
        levels: Sequence[PendingMap],
        networks: Mapping[str, RegionProposalNetwork],
        generator: torch.Generator,
    ) -> Tensor:
        """The pooled locations, ascending; labels the anchors of every configuration on the way."""
        total = sum(level.grid[0] * level.grid[1] for level in levels)
        taken = [torch.randperm(total, generator=generator)[:POOLED_OTHERS]]
        for name, network in networks.items():
            anchors = _anchors(network, levels, image.input_size)
            assignment = network.assigner(anchors, image.boxes, image.ignore, image.size)
            self.labels[name].append(assignment)
            positive = (assignment.label == OBJECT).nonzero().squeeze(1)
            drawn = positive[torch.randperm(len(positive), generator=generator)[:POOLED_POSITIVES]]
            taken.append(_locations(anchors, network.anchors.num_anchors)[drawn])
        return torch.cat(taken).unique()

    def _split(self, chosen: Tensor, row: int) -> list[Tensor]:
        """The locations of each level, counted from its first."""
        counts = torch.tensor([h * w for h, w in self.grids[row]])
        ends = counts.cumsum(0)
        firsts = ends - counts
        return [chosen[(chosen >= first) & (chosen < end)] - first for first, end in zip(firsts, ends, strict=True)]

    def train(self, name: str, network: RegionProposalNetwork, budget: Budget) -> None:
        """Train a configuration's 1x1 convolutions alone."""
        anchors, places, labels = self._prepared(name, network)
        optimizer = AdamW(network.head.parameters(), lr=budget.lr)
        order = _Order(len(self.images), budget.seed)
        for step in range(budget.steps):
            optimizer.zero_grad()
            rows = order.take(budget.batch)
            targets, asked, level_ks = [], [], []
            for row in rows:
                image, label = self.images[row], labels[row]
                generator = seeded(budget.seed, 1, step, row)
                target = network.sample(label, anchors[row], image.boxes, image.ignore, generator)
                targets.append(target)
                asked.append(places[row][0][target.rows])
                level_ks.append(places[row][1][target.rows])
            outputs = self._outputs(network.head, torch.cat(asked), torch.cat(level_ks))
            locations = round(np.mean([len(self.places[row]) for row in rows]))
            loss = network.losses_of(cast(list[ImageTargets], targets), outputs, locations, None)
            loss.total.backward()
            nn.utils.clip_grad_norm_(network.head.parameters(), 10.0)
            _take_step(optimizer, budget.lr, step, budget.steps)

    def _prepared(
        self, name: str, network: RegionProposalNetwork
    ) -> tuple[list[Anchors], list[tuple[Tensor, Tensor]], list[Assignment]]:
        """Of every image its anchors; of every anchor its row of `features`, and (level, slot) as one number; labels,
        IGNORE where there is no such row."""
        k = network.anchors.num_anchors
        anchors, places, labels = [], [], []
        for row, image in enumerate(self.images):
            grid = network.anchors(self.grids[row], image.input_size, "cpu")
            place = self.places[row][_locations(grid, k)]
            slots = torch.cat(
                [torch.arange(count) % k[level] + level * max(k) for level, count in enumerate(grid.num_per_level)]
            )
            assignment = self.labels[name][row]
            anchors.append(grid)
            places.append((place, slots))
            labels.append(assignment._replace(label=assignment.label.where(place >= 0, IGNORE)))
        return anchors, places, labels

    def _outputs(self, head: RPNHead, rows: Tensor, level_slots: Tensor) -> Outputs:
        """What the head says at rows (S,) of `features`, of the anchor with that (level, slot).

        As `predictions.at_locations`, but of images with unlike grids at once, and a place may be asked about twice.
        """
        widest = max(head.num_anchors)
        level, slot = level_slots // widest, level_slots % widest
        parts: list[HeadOutput] = []
        order = []
        for k in sorted(set(head.num_anchors)):
            of_k = [number for number, other in enumerate(head.num_anchors) if other == k]
            (here,) = torch.isin(level, torch.tensor(of_k)).nonzero(as_tuple=True)
            said = head.at_hidden(of_k[0], self.features[rows[here]].float())
            at = (torch.arange(len(here)), slot[here])
            parts.append(HeadOutput(*(None if part is None else part[at] for part in said)))  # pyright: ignore[reportArgumentType]
            order.append(here)
        back = torch.cat(order).argsort()
        quality = None if parts[0].quality is None else torch.cat([cast(Tensor, p.quality) for p in parts])[back]
        return Outputs(torch.cat([p.scores for p in parts])[back], torch.cat([p.deltas for p in parts])[back], quality)


class _Order:
    """Rows in passes over all of them, each pass in an order of its own."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._rng, self._left = count, np.random.default_rng(seed), np.zeros(0, np.int64)

    def take(self, number: int) -> list[int]:
        while len(self._left) < number:
            self._left = np.concatenate([self._left, self._rng.permutation(self._count)])
        taken, self._left = self._left[:number], self._left[number:]
        return taken.tolist()


def _choose(data: DataModule, budget: Budget) -> tuple[list[Record], list[Record]]:
    """Images of the training split with boxes, to fit to and held out; none is in both, copies of one neither."""
    records = [record for record in data.train_records if (~record.ignore).any()]
    if len(records) < 2:
        raise DataError(
            f"data.root={data.root}: a probe needs two training images with boxes, and there are {len(records)}"
        )
    share = budget.held_out / (budget.held_out + budget.images)
    fit, held_out = divide(records, share, budget.seed)
    return first_by_hash(fit, budget.images, budget.seed), first_by_hash(held_out, budget.held_out, budget.seed)


def _anchors(network: RegionProposalNetwork, levels: Sequence[PendingMap], input_size: tuple[int, int]) -> Anchors:
    return network.anchors([level.grid for level in levels], input_size, "cpu")


def _locations(anchors: Anchors, num_anchors: Sequence[int]) -> Tensor:
    """The location (A,), counted over all levels, of each anchor."""
    parts, first = [], 0
    for count, k in zip(anchors.num_per_level, num_anchors, strict=True):
        parts.append(torch.arange(count) // k + first)
        first += count // k
    return torch.cat(parts)


def _smaller(sampler: Sampler) -> Sampler:
    """The same rule for fewer anchors; one that takes all anchors stays as it is."""
    if sampler.num is None or sampler.num <= TRUNK_SAMPLE:
        return sampler
    smaller: Any = copy(sampler)
    smaller.num = TRUNK_SAMPLE
    return smaller


def _take_step(optimizer: Optimizer, lr: float, step: int, steps: int) -> None:
    """One step of a schedule that warms up over a tenth and falls as a cosine."""
    share = (step + 1) / steps
    factor = min(1.0, 10 * share) * 0.5 * (1 + math.cos(math.pi * share))
    for group in optimizer.param_groups:
        group["lr"] = lr * factor
    optimizer.step()
