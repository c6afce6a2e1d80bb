"""Coverage of a data set of COCO's size by anchors: one configuration, and a grid of a thousand, on two threads.

860,000 boxes of 118,000 images of 640 x 480 and the like, drawn from COCO's spread of sizes and ratios, resized to a
short side of 800 px. The peer is what one would write with torchvision: `box_iou` of each image's boxes with all of its
anchors, timed on a few images; both find the same best IoU, bit for bit.
"""

import itertools

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from anchorlab.analysis.closed_form import level_shapes
from anchorlab.analysis.coverage import cover, cover_many
from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.data.resize import target_size
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner
from benchmarks.measure import Options, Row, interleaved, parse, peak_of_process, report, set_threads

STRIDES = (4, 8, 16, 32, 64)
BOXES, IMAGES = 860_000, 118_000
CONFIGURATIONS, MOST_SHAPES = 1000, 300
PEER_IMAGES = 20
SIZES_OF_IMAGES = ((480, 640), (640, 480), (427, 640), (640, 427), (500, 375), (612, 612))
ASSIGNER = MaxIoUAssigner()


def coco_like(num_boxes: int, num_images: int) -> GroundTruth:
    """Boxes whose size is 0.01 to 1 of their image's, log-uniform, with ratios around 1."""
    rng = np.random.default_rng(0)
    sides = np.array([target_size(*size, 800, 1333) for size in SIZES_OF_IMAGES])
    sizes = sides[rng.integers(len(sides), size=num_images)]
    image = np.sort(rng.integers(num_images, size=num_boxes))
    room = sizes[image][:, ::-1]  # (G, 2): width, height
    size = np.sqrt(room.prod(axis=1)) * np.exp(rng.uniform(np.log(0.01), 0, num_boxes))
    root = np.exp(rng.normal(0, 0.35, num_boxes))
    extent = np.minimum(np.stack((size / root, size * root), axis=1), room)
    corner = rng.random((num_boxes, 2)) * (room - extent)
    content = torch.from_numpy(np.ascontiguousarray(sizes))
    return GroundTruth(
        boxes=torch.from_numpy(np.concatenate((corner, corner + extent), axis=1).astype(np.float32)),
        image=torch.from_numpy(image),
        sizes=content,
        padded=content,
        grids=torch.stack([-(-content // stride) for stride in STRIDES], dim=1),
    )


def a_grid_of(count: int) -> list[AnchorGrid]:
    """Configurations of one to three of 10 scales and three of 6 ratios, k = 3 to 9: they share their shapes."""
    scales = np.geomspace(2, 16, 10).tolist()
    ratios = itertools.combinations((0.25, 0.5, 0.8, 1.25, 2.0, 4.0), 3)
    some = [chosen for number in (1, 2, 3) for chosen in itertools.combinations(scales, number)]
    every = list(itertools.product(some, ratios))
    chosen = [every[i * len(every) // count] for i in range(count)]
    return [AnchorGrid([[s * stride for s in few] for stride in STRIDES], r, strides=STRIDES) for few, r in chosen]


def by_box_iou(truth: GroundTruth, anchors: AnchorGrid, images: int) -> Tensor:
    """The best IoU of the boxes of the first images, from every pair of a box and an anchor."""
    best = []
    for image in range(images):
        grids = [(rows, columns) for rows, columns in truth.grids[image].tolist()]
        height, width = truth.padded[image].tolist()
        boxes = truth.boxes[truth.image == image]
        best.append(box_iou(boxes, anchors(grids, (height, width), "cpu").boxes).amax(dim=1))
    return torch.cat(best)


def main(options: Options) -> None:
    set_threads(options.threads or 2)
    num_boxes, num_images, count = (2000, 300, 20) if options.quick else (BOXES, IMAGES, CONFIGURATIONS)
    truth, anchors = coco_like(num_boxes, num_images), AnchorGrid(scale=8, strides=STRIDES)
    expected = by_box_iou(truth, anchors, PEER_IMAGES)
    found = cover(truth, anchors, ASSIGNER)
    assert torch.equal(found.best[: len(expected)], expected)
    repeats = options.num_repeats(5)
    peer = interleaved({"peer": lambda: by_box_iou(truth, anchors, PEER_IMAGES)}, repeats)["peer"]
    one = interleaved({"one": lambda: cover(truth, anchors, ASSIGNER)}, repeats)["one"]
    peak_of_one, grid = peak_of_process(), a_grid_of(count)
    many = interleaved({"many": lambda: cover_many(truth, grid, ASSIGNER)}, 1)["many"]
    pairs = {key for anchors in grid for key in level_shapes(anchors, truth)}
    assert len(pairs) <= MOST_SHAPES
    rows: list[Row] = [
        {
            "what": "one configuration, k = 3",
            "level and shape pairs": len(level_shapes(anchors, truth)),
            "seconds": one.median,
            "peak of the process, MiB": peak_of_one,
        },
        {
            "what": f"{count:,} configurations, k = 3 to 9",
            "level and shape pairs": len(pairs),
            "seconds": many.median,
            "peak of the process, MiB": peak_of_process(),
        },
    ]
    claim = f"Coverage of {num_boxes:,} boxes in {num_images:,} images by anchors on strides 4 to 64, after loading"
    whole = peer.median * num_images / PEER_IMAGES
    notes = [
        f"Every pair of a box and an anchor (torchvision's box_iou), {PEER_IMAGES} images timed: "
        f"{whole:,.0f} s for all images, {whole / one.median:,.0f} times as long as one configuration here; "
        f"the best IoU of these images' boxes is equal bit for bit."
    ]
    setting = {"layout": "boxes in one array", "precision": "float32", "repeats": f"{repeats}, of the grid 1"}
    report("coverage", claim, rows, setting, options, notes)


if __name__ == "__main__":
    main(parse(__doc__))
