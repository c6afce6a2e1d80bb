"""TensorBoard: a run's curves and pictures as event files, for `tensorboard --logdir`."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anchorlab.plots.boxes import proposals_figure
from anchorlab.plots.scene import Scene
from anchorlab.training.loggers.protocol import End, Row, RunFacts, RunLogger


class TensorBoardLogger(RunLogger):
    """Writes `tensorboard/` in the run's folder, over optimizer steps. Needs the extra `tensorboard`.

    Args:
        media: whether pictures are written.
    """

    title = "TensorBoard"

    def __init__(self, media: bool = True) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                "logger=tensorboard needs the package tensorboard: pip install 'anchorlab[tensorboard]'"
            ) from error
        self.media = media
        self._make_writer = SummaryWriter
        self._writer: Any = None
        self._folder = Path()
        self._step = 0
        self._scenes: list[tuple[str, Scene, int]] = []

    def start(self, run: RunFacts) -> None:
        self._folder = run.folder / "tensorboard"
        shutil.rmtree(self._folder, ignore_errors=True)  # a resumed run is written anew
        self._writer = self._make_writer(str(self._folder))
        axes = "\n".join(f"    {name}: {value}" for name, value in run.axes.items())
        self._writer.add_text("axes", axes, 0)

    def resumed(self, rows: Sequence[Row]) -> None:
        for index, row in enumerate(rows):
            self.row(index, row)

    def row(self, index: int, row: Row) -> None:
        self._step = int(row["step"])
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, self._step)
        for key, scene, top in self._scenes:
            self._writer.add_figure(key, proposals_figure([scene], top), self._step, close=False)
        self._scenes = []
        self._writer.flush()

    def picture(self, key: str, scene: Scene, top: int) -> None:
        if self.media:
            self._scenes.append((key, scene, top))

    def image(self, key: str, path: Path) -> None:
        if self.media:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            self._writer.add_image(key, pixels, self._step, dataformats="HWC")

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        self._writer.add_text(key, "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines), self._step)

    def notice(self) -> str:
        return f"tensorboard --logdir {self._folder}"

    def finish(self, end: End) -> None:
        if self._writer is not None:
            self._writer.close()
