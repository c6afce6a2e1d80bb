"""Baselines for anchor fitting: default shapes, k-means and differential evolution, to compare with a fit.

They look at widths and heights alone, as if an anchor could stand anywhere; nothing here knows of grids. Each method
gives k shapes for every level at once, which are dealt out by area, smallest to the finest level.

G: boxes, S: shapes, given and returned as width and height (., 2) in pixels of the network's input.
"""

from collections.abc import Sequence

import numpy as np

from anchorlab.rpn.anchors import AnchorGrid

Shapes = np.ndarray

YOLO_GENERATIONS = 1000
YOLO_THRESHOLD = 0.25  # a box counts as fitted when no side differs from the anchor's by more than four times
DE_BOXES = 1000
# MMDetection has 1,000 generations of 15 individuals for each number: hours for 45 shapes.
DE_GENERATIONS, DE_INDIVIDUALS = 300, 150


def torchvision_default(strides: Sequence[int]) -> AnchorGrid:
    """What torchvision's detectors have: on a pyramid 8 x stride in three ratios, on one level 128, 256 and 512 px."""
    sizes = [8 * stride for stride in strides] if len(strides) > 1 else [128, 256, 512]
    return AnchorGrid(sizes, rounded=True, order="ratio", stride="inferred", strides=strides)


def iou_kmeans(sides: Shapes, count: int, rng: np.random.Generator, rounds: int = 50) -> Shapes:
    """k-means with 1 - IoU of centred boxes as distance (YOLO9000, section 2) and medians as centres."""
    centres = _spread_start(sides, count, rng)
    owner = np.full(len(sides), -1)
    for _ in range(rounds):
        nearest = shape_iou(sides, centres).argmax(axis=1)
        if (nearest == owner).all():
            break
        owner = nearest
        for i in range(count):
            if (owner == i).any():
                centres[i] = np.median(sides[owner == i], axis=0)
    return centres


def yolo_kmeans(sides: Shapes, count: int, rng: np.random.Generator) -> Shapes:
    """As YOLOv5 does it: k-means on sides over their standard deviation, then mutations that are kept where they help.

    What helps is the mean over boxes of the best anchor's worst ratio of sides, counted from `YOLO_THRESHOLD` on.
    """

    from scipy.cluster.vq import kmeans  # half a second, which only the comparison with these baselines needs

    def fitness(shapes: Shapes) -> float:
        wide, tall = sides[:, :1] / shapes[:, 0], sides[:, 1:] / shapes[:, 1]
        best = np.minimum(np.minimum(wide, 1 / wide), np.minimum(tall, 1 / tall)).max(axis=1)
        return float((best * (best > YOLO_THRESHOLD)).mean())

    spread = sides.std(axis=0) + 1e-9
    found = kmeans(sides / spread, count, iter=30, rng=rng)[0] * spread
    shapes = np.concatenate([found, _spread_start(sides, count, rng)])[:count]  # scipy may return fewer
    best = fitness(shapes)
    for _ in range(YOLO_GENERATIONS):
        change = 1 + (rng.random(shapes.shape) < 0.9) * rng.random() * 0.1 * rng.standard_normal(shapes.shape)
        mutated = (shapes * change.clip(0.3, 3.0)).clip(2.0)
        value = fitness(mutated)
        if value > best:
            shapes, best = mutated, value
    return shapes


def mean_iou_evolution(sides: Shapes, count: int, rng: np.random.Generator) -> Shapes:
    """As MMDetection's `YOLODEAnchorOptimizer`: differential evolution of the boxes' mean best IoU.

    On at most `DE_BOXES` of the boxes, `DE_GENERATIONS` generations of about `DE_INDIVIDUALS`.
    """
    from scipy.optimize import differential_evolution  # as above

    if len(sides) > DE_BOXES:
        sides = sides[rng.choice(len(sides), DE_BOXES, replace=False)]

    def loss(numbers: np.ndarray) -> np.ndarray:
        population = numbers.T.reshape(-1, count, 2)  # scipy has the individuals in columns
        return np.array([1 - shape_iou(sides, shapes).max(axis=1).mean() for shapes in population])

    bounds = [(1.0, float(side)) for side in sides.max(axis=0)] * count
    result = differential_evolution(
        loss,
        bounds,
        maxiter=DE_GENERATIONS,
        popsize=max(1, DE_INDIVIDUALS // len(bounds)),
        tol=1e-4,
        vectorized=True,
        updating="deferred",
        polish=False,
        rng=rng,
    )
    return result.x.reshape(count, 2)


def split_by_area(shapes: Shapes, num_levels: int) -> list[Shapes]:
    """Shapes (S, 2) dealt out to levels in order of area, equally many to each."""
    return np.array_split(shapes[shapes.prod(axis=1).argsort(kind="stable")], num_levels)


def shape_iou(sides: Shapes, shapes: Shapes) -> np.ndarray:
    """(G, S) IoU of boxes and shapes with one centre."""
    width, height = np.minimum(sides[:, :1], shapes[:, 0]), np.minimum(sides[:, 1:], shapes[:, 1])
    intersection = width * height
    return intersection / (sides.prod(axis=1)[:, None] + shapes.prod(axis=1) - intersection)


def _spread_start(sides: Shapes, count: int, rng: np.random.Generator) -> Shapes:
    """Centres drawn from the boxes one by one, each in proportion to its distance from those before (k-means++)."""
    centres = [sides[rng.integers(len(sides))]]
    for _ in range(count - 1):
        distance = (1 - shape_iou(sides, np.array(centres)).max(axis=1)) ** 2
        total = distance.sum()
        chosen = rng.choice(len(sides), p=distance / total) if total > 0 else rng.integers(len(sides))
        centres.append(sides[chosen])
    return np.array(centres, dtype=np.float64)
