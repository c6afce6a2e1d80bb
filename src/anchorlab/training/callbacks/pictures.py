"""Pictures of a run: the anchors of one location, proposals against boxes, recall against N.

Drawn with matplotlib's Figure, without pyplot, so that no process holds figures open. Colours are those of Okabe and
Ito, which the colour-blind can tell apart: boxes orange, proposals that found one blue, misses vermilion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import ScalarFormatter

from anchorlab.data.batch import Batch, collate
from anchorlab.data.decode import decode
from anchorlab.data.module import DataModule
from anchorlab.metrics.figures import AT_50
from anchorlab.metrics.recall import match
from anchorlab.rpn.anchors import Anchors
from anchorlab.rpn.boxes import pairwise_iou
from anchorlab.rpn.network import Predictions
from anchorlab.runs import gallery
from anchorlab.training.loggers.wandb import WandbLogger
from anchorlab.training.module import RPNModule

BOX, FOUND, MISSED, PLAIN = "#E69F00", "#0072B2", "#D55E00", "#999999"
LEVEL_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#D55E00")
FOUND_IOU = 0.5


@dataclass(frozen=True)
class Scene:
    """One validation image with its boxes and proposals, all in original pixels."""

    image: np.ndarray  # (H, W, 3) uint8
    boxes: np.ndarray  # (G, 4), ignored ones left out
    proposals: np.ndarray  # (P, 4), best first
    scores: np.ndarray  # (P,)
    image_id: int | str


class Pictures(Callback):
    """Draws into the run's folder, and into Weights & Biases where that is the logger; keeps in the folder what
    `compare.py` shows beside other runs.

    Args:
        images: validation images that are drawn, those with boxes first; 0 draws nothing.
        top: best proposals drawn on each.
        every: epochs between pictures.
    """

    def __init__(self, images: int, top: int, every: int) -> None:
        self.images, self.top, self.every = images, top, every
        self._batch: Batch | None = None
        self._pixels: list[np.ndarray] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.images == 0 or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, RPNModule)
        self.choose(trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]
        assert self._batch is not None
        figure = anchors_figure(self._pixels[0], predict(pl_module, self._batch).anchors, self._batch)
        save(figure, _folder(trainer) / "anchors.png")

    def choose(self, data: DataModule) -> None:
        """Decode the images that are drawn, of the split that is scored."""
        by_boxes = sorted(enumerate(data.val_records), key=lambda row: len(row[1].boxes) == 0)[: self.images]
        self._pixels = [decode(record).image for _, record in by_boxes]
        self._batch = collate([data.dataset(data.validate_on)[row] for row, _ in by_boxes], data.pad_to)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if self._batch is None or not (epoch == trainer.max_epochs or epoch % self.every == 0):
            return
        assert isinstance(pl_module, RPNModule)
        scenes = self.scenes(pl_module)
        gallery.write_scenes(trainer.default_root_dir, [kept(scene) for scene in scenes])
        save(proposals_figure(scenes, self.top), _folder(trainer) / f"proposals_epoch_{epoch:03d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                for scene in scenes:
                    best = slice(self.top)
                    logger.log_boxes(
                        f"val/image_{scene.image_id}",
                        scene.image,
                        scene.proposals[best],
                        scene.scores[best],
                        scene.boxes,
                        trainer.global_step,
                    )

    def scenes(self, module: RPNModule) -> list[Scene]:
        batch = self._batch
        assert batch is not None
        assert batch.targets is not None
        proposals = module.propose(predict(module, batch), batch)
        return [
            Scene(
                self._pixels[row],
                target.boxes[target.counted].numpy(),
                batch.to_original(row, proposals[row].boxes).numpy(),
                proposals[row].scores.cpu().numpy(),
                batch.image_ids[row],
            )
            for row, target in enumerate(batch.targets)
        ]


def kept(scene: Scene) -> gallery.Scene:
    """What the run's folder keeps of a scene, for pages that compare runs: with the rank that found each box."""
    counted = np.ones((len(scene.boxes), 1), dtype=bool)
    boxes, proposals, scores = (values.astype(np.float64) for values in (scene.boxes, scene.proposals, scene.scores))
    rank = match(proposals, scores, boxes, counted, limit=max(len(scores), 1))[:, AT_50, 0]
    height, width = scene.image.shape[:2]
    image = gallery.thumbnail(scene.image)
    return gallery.Scene(str(scene.image_id), image, (height, width), scene.boxes, rank, scene.proposals, scene.scores)


@torch.no_grad()
def predict(module: RPNModule, batch: Batch) -> Predictions:
    """Predictions for a batch outside of a step, in evaluation mode, which is left as it was."""
    was_training = module.training
    module.eval()
    predictions = module(batch.to(module.device))
    module.train(was_training)
    return predictions


def anchors_figure(image: np.ndarray, anchors: Anchors, batch: Batch) -> Figure:
    """One panel a level: the grid of locations, and the k anchors of the one nearest the image's middle."""
    scale_y, scale_x = (float(scale) for scale in batch.scales[0])
    to_image = np.array([scale_x, scale_y, scale_x, scale_y])
    panels = len(anchors.levels)
    columns = min(panels, 3)
    figure, axes = grid_of_axes(panels, columns, image)
    for at, (level, axis) in enumerate(zip(anchors.levels, axes, strict=False)):
        x1, x2, y1, y2 = (side.cpu().numpy() for side in (level.x1, level.x2, level.y1, level.y2))
        column, row, count = len(x1) // 2, len(y1) // 2, x1.shape[1]
        x, y = (x1 + x2).mean(1) / 2 / scale_x, (y1 + y2).mean(1) / 2 / scale_y
        show(axis, image, f"level {at}: {len(y1)} x {len(x1)} locations, k = {count} anchors at each")
        axis.scatter(*np.meshgrid(x, y), s=3, color="white", linewidths=0)
        for j in range(count):
            box = np.array([x1[column, j], y1[row, j], x2[column, j], y2[row, j]])
            draw(axis, box / to_image, LEVEL_COLOURS[at % len(LEVEL_COLOURS)])
        axis.scatter(x[column], y[row], s=40, marker="+", color="black", linewidths=2)
    return figure


def proposals_figure(scenes: Sequence[Scene], top: int) -> Figure:
    """Boxes against the `top` proposals of each image: which were found at IoU 0.5, which were missed."""
    figure, axes = grid_of_axes(len(scenes), min(len(scenes), 2), scenes[0].image)
    for scene, axis in zip(scenes, axes, strict=False):
        proposals = scene.proposals[:top]
        iou = pairwise_iou(torch.as_tensor(scene.boxes), torch.as_tensor(proposals)).numpy()
        found = np.asarray((iou >= FOUND_IOU).any(axis=1))
        hits = np.asarray((iou >= FOUND_IOU).any(axis=0))
        show(
            axis,
            scene.image,
            f"{scene.image_id}: {found.sum()} of {len(found)} found by {len(proposals)} proposals",
        )
        for proposal, hit in zip(proposals, hits, strict=True):
            draw(axis, proposal, FOUND if hit else PLAIN, 1.2 if hit else 0.6)
        for box, is_found in zip(scene.boxes, found, strict=True):
            draw(axis, box, BOX if is_found else MISSED, 2.0, "-" if is_found else "--")
    figure.text(
        0.01,
        0.005,
        "box found: orange   box missed: dashed vermilion   proposal with IoU >= 0.5: blue   others: grey",
        fontsize=8,
    )
    return figure


def recall_figure(curves: dict[str, tuple[np.ndarray, np.ndarray]], title: str) -> Figure:
    """Recall against the number of proposals, a curve for each IoU; N on a logarithmic axis."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for (name, (budgets, recall)), colour in zip(curves.items(), LEVEL_COLOURS, strict=False):
        axis.plot(budgets, recall, label=name, color=colour)
    axis.set(xscale="log", xlabel="proposals per image N", ylabel="recall", ylim=(0, 1), title=title)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def grid_of_axes(panels: int, columns: int, image: np.ndarray) -> tuple[Figure, list[Axes]]:
    """A figure with room for `panels` images of about this shape."""
    rows = -(-panels // columns)
    height, width = image.shape[:2]
    figure = Figure(figsize=(4.5 * columns, 4.5 * rows * height / width + 0.3 * rows), layout="constrained")
    axes = list(np.ravel(figure.subplots(rows, columns)))
    for axis in axes:
        axis.axis("off")
    return figure, axes


def show(axis: Axes, image: np.ndarray, title: str) -> None:
    axis.imshow(image)
    axis.set_title(title, fontsize=8)
    height, width = image.shape[:2]
    axis.set(xlim=(0, width), ylim=(height, 0))


def draw(axis: Axes, box: np.ndarray, colour: str, width: float = 1.5, style: str = "-") -> None:
    x1, y1, x2, y2 = (float(value) for value in box)
    axis.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, linestyle=style)
    )


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "figures"
