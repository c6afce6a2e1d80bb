"""Scene: an image with its boxes and the proposals for them, as pictures and loggers take it; draws nothing."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scene:
    """One validation image with its boxes and proposals, all in original pixels."""

    image: np.ndarray  # (H, W, 3) uint8
    boxes: np.ndarray  # (G, 4), ignored ones left out
    proposals: np.ndarray  # (P, 4), best first
    scores: np.ndarray  # (P,)
    image_id: int | str
