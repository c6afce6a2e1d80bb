"""A trained network as one function from a photograph to boxes in its pixels: resizing and padding as in training.

P proposals
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from anchorlab.data.batch import padded
from anchorlab.data.resize import resize_image, target_size
from anchorlab.trained.load import Trained, load_trained


class Proposer:
    """photo (H, W, 3) uint8 RGB -> boxes (P, 4) float64, xyxy in its pixels, and scores (P,), best first.

    The same as evaluate.py and propose.py compute in float32 with batches of one image.

    Args:
        source: an exported model, a run's folder or a checkpoint, or what `load_trained` gave.
        allow: packages besides anchorlab whose classes the settings may name; building one runs its code.

    Raises:
        SettingError: no such network.
    """

    def __init__(self, source: str | Path | Trained, allow: Sequence[str] = ()) -> None:
        self.trained = source if isinstance(source, Trained) else load_trained(source, allow=allow)

    @torch.no_grad()
    def __call__(self, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        network = self.trained.network
        height, width = photo.shape[:2]
        new = target_size(height, width, *self.trained.resize)
        image = torch.from_numpy(np.ascontiguousarray(resize_image(photo, new))).permute(2, 0, 1)[None]
        sizes = torch.tensor([new])
        images = network.prepare(padded(image, self.trained.pad_to), sizes)
        (found,) = network.propose(network(images), sizes)
        tall, wide = new[0] / height, new[1] / width
        return found.boxes.double().numpy() / (wide, tall, wide, tall), found.scores.numpy()
