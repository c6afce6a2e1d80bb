"""Callback that draws a run's figures: one location's anchors, proposals beside ground truth, recall against N."""

import gc
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from anchorlab.data.batch import Batch, collate
from anchorlab.data.decode import decode
from anchorlab.data.module import DataModule
from anchorlab.metrics.from_ranks import AT_50
from anchorlab.metrics.recall import match
from anchorlab.plots.scene import Scene
from anchorlab.rpn.network import Predictions
from anchorlab.runs.gallery import GalleryImage, thumbnail, write_gallery
from anchorlab.signatures import Count, CountOrZero, checked
from anchorlab.training.loggers.hub import loggers_of
from anchorlab.training.module import RPNModule


@checked
class Pictures(Callback):
    """Draws into the run's folder, and to the loggers; keeps in the folder what
    `compare.py` shows beside other runs.

    Args:
        images: validation images that are drawn, those with boxes first; 0 draws nothing.
        top: best proposals drawn on each.
        every: epochs between pictures.
    """

    only_watches = True

    def __init__(self, images: CountOrZero, top: Count, every: Count) -> None:
        self.images, self.top, self.every = images, top, every
        self._batch: Batch | None = None
        self._pixels: list[np.ndarray] = []

    def choose(self, data: DataModule) -> None:
        """Decode the images that are drawn, of the split that is scored."""
        by_boxes = sorted(enumerate(data.val_records), key=lambda row: len(row[1].boxes) == 0)[: self.images]
        self._pixels = [decode(record).image for _, record in by_boxes]
        self._batch = collate([data.dataset(data.validate_on)[row] for row, _ in by_boxes], data.pad_to)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.images == 0 or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, RPNModule)
        if self._batch is None:  # not at the start, which matplotlib would delay
            self.choose(trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]
            self._draw_anchors(pl_module, _folder(trainer))
        epoch = trainer.current_epoch + 1
        if epoch == trainer.max_epochs or epoch % self.every == 0:
            self._draw(trainer, pl_module, _folder(trainer) / f"proposals_epoch_{epoch:03d}.png")

    def _draw_anchors(self, module: RPNModule, folder: Path) -> None:
        from anchorlab.plots.boxes import anchors_figure, save  # matplotlib: half a second

        assert self._batch is not None
        save(anchors_figure(self._pixels[0], predict(module, self._batch).anchors, self._batch), folder / "anchors.png")

    def _draw(self, trainer: Trainer, module: RPNModule, path: Path) -> None:
        from anchorlab.plots.boxes import proposals_figure, save  # as above

        scenes = self.scenes(module)
        write_gallery(trainer.default_root_dir, [kept(scene) for scene in scenes])
        save(proposals_figure(scenes, self.top), path)
        for scene in scenes:
            loggers_of(trainer).log_picture(f"val/image_{scene.image_id}", scene, self.top)
        # A figure of matplotlib is full of cycles. Python looks for those once a quarter of all objects is new: after
        # some twenty figures, with the pixels of each.
        gc.collect()

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


def kept(scene: Scene) -> GalleryImage:
    """What the run's folder keeps of a scene, for pages that compare runs: with the rank that found each box."""
    counted = np.ones((len(scene.boxes), 1), dtype=bool)
    boxes, proposals, scores = (values.astype(np.float64) for values in (scene.boxes, scene.proposals, scene.scores))
    rank = match(proposals, scores, boxes, counted, limit=max(len(scores), 1))[:, AT_50, 0]
    height, width = scene.image.shape[:2]
    image = thumbnail(scene.image)
    return GalleryImage(str(scene.image_id), image, (height, width), scene.boxes, rank, scene.proposals, scene.scores)


@torch.no_grad()
def predict(module: RPNModule, batch: Batch) -> Predictions:
    """Predictions for a batch outside of a step, in evaluation mode, which is left as it was."""
    was_training = module.training
    module.eval()
    predictions = module(batch.to(module.device))
    module.train(was_training)
    return predictions


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "figures"
