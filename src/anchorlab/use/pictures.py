"""One image with its best proposals: against its boxes where they are known, else by score."""

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from anchorlab.training.callbacks.pictures import Scene, draw, proposals_figure, show


def proposals_picture(scene: Scene, top: int, with_truth: bool) -> Figure:
    """The `top` proposals; where boxes are known, which of them they found and which they missed."""
    if with_truth:
        return proposals_figure([scene], top)
    height, width = scene.image.shape[:2]
    figure = Figure(figsize=(7, 7 * height / width * 0.88 + 0.4), layout="constrained")
    axis = figure.subplots()
    axis.axis("off")
    boxes, scores = scene.proposals[:top], scene.scores[:top]
    show(axis, scene.image, f"{scene.image_id}: the {len(boxes)} best of {len(scene.proposals):,} proposals")
    span = Normalize(float(scores.min()), float(scores.max())) if len(scores) else None
    colours = colormaps["viridis"]
    for box, score in zip(boxes[::-1], scores[::-1], strict=True):  # the best on top
        assert span is not None
        colour = colours(0.15 + 0.85 * float(np.nan_to_num(span(score))))
        draw(axis, box, colour, 1.8)  # pyright: ignore[reportArgumentType]
    if span is not None:
        figure.colorbar(ScalarMappable(span, colours), ax=axis, shrink=0.7, label="score")
    return figure
