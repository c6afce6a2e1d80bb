"""What recall's gather sends: one validation's metric among 1, 4, 8 and 16 processes (gloo), bytes counted."""

import multiprocessing
import sys
from typing import Any

import numpy as np
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from anchorlab.metrics.recall import ProposalRecall

IMAGES, BOXES, PROPOSALS = 256, 7, 100


def main() -> None:
    print("processes  images  bytes that a process receives, an image  AR@100")
    for world in (1, 4, 8, 16):
        for images in (IMAGES, 2 * IMAGES):
            results = multiprocessing.get_context("fork").SimpleQueue()
            ranks = range(world)
            store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
            context = multiprocessing.get_context("fork")
            others = [context.Process(target=validate, args=(r, world, store.port, images, results)) for r in ranks]
            for process in others:
                process.start()
            answers = {results.get() for _ in ranks}
            for process in others:
                process.join()
            if len(answers) != 1:
                sys.exit(f"processes disagree: {answers}")
            received, metric = answers.pop()
            print(f"{world:9}  {images:6}  {received / images:41.1f}  {metric}")


def validate(rank: int, world: int, port: int, images: int, results: Any) -> None:
    """One process's share of the images, in turn; puts its bytes and AR@100 into `results`."""
    dist.init_process_group("gloo", store=TCPStore("127.0.0.1", port, None, False), rank=rank, world_size=world)
    received, gather = 0, dist.all_gather

    def counting(tensors: list[Any], *arguments: Any, **options: Any) -> Any:
        nonlocal received
        received += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return gather(tensors, *arguments, **options)

    dist.all_gather = counting
    metric = ProposalRecall()
    for index in range(rank, images, world):
        draw = np.random.default_rng(index)
        corners = draw.uniform(0, 400, (BOXES, 2))
        boxes = np.hstack([corners, corners + draw.uniform(20, 90, (BOXES, 2))])
        near = np.repeat(boxes, PROPOSALS // BOXES, 0) + draw.normal(0, 8, (PROPOSALS // BOXES * BOXES, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        metric.update(index, near, draw.random(len(near)), boxes, area, np.zeros(BOXES, bool))
    found = metric.compute()["AR_100"]
    results.put((received, found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
