"""Contact sheet of samples with their boxes drawn in: what the network is about to see, on one page.

It draws and writes a picture; it neither loads nor changes a sample. Boxes are xyxy in pixels of their
sample's image.
"""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from anchorlab.data.sample import Sample
from anchorlab.plots import palette
from anchorlab.plots.palette import rgb
from anchorlab.runs.files import write_whole

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

OBJECT: Colour = rgb(palette.TRUTH)
IGNORED: Colour = rgb(palette.IGNORED)
_PAPER, _INK = 250, 40  # grey levels
_DASH = 5  # pixels drawn, then as many left out
_CAPTION = 18  # height of a caption in pixels
_GAP = 6  # pixels between two tiles


def contact_sheet(samples: Iterable[Sample], path: str | Path, columns: int = 4, tile: int = 320) -> Path:
    """Write all samples as one PNG, `columns` side by side, and return its path.

    Each image is scaled until its longer side has `tile` pixels. A solid orange frame is an object, a dashed
    purple one an ignored region; the caption counts both. Raises `ValueError` without any sample.
    """
    tiles = [_tile(sample, tile) for sample in samples]
    if not tiles:
        raise ValueError("A contact sheet needs at least one sample.")
    rows = [_row(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    width = max(row.shape[1] for row in rows)
    sheet = np.vstack([_padded(row, row.shape[0], width) for row in rows])
    path = Path(path)
    _, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    write_whole(path, data.tobytes())
    return path


def draw_boxes(sample: Sample, scale: float = 1.0) -> Picture:
    """The sample's image, `scale` times as large, with each box framed on its own outermost pixels."""
    height, width = (max(1, round(side * scale)) for side in sample.image.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = cv2.resize(sample.image, (width, height), interpolation=interpolation).astype(np.uint8)
    for box, ignored in zip(sample.boxes * scale, sample.ignore, strict=True):
        x1, y1, x2, y2 = (int(side) for side in np.rint(box))
        _draw_frame(picture, (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), dashed=bool(ignored))
    return picture


def _draw_frame(picture: Picture, frame: tuple[int, int, int, int], dashed: bool) -> None:
    """Draw one pixel wide along the frame, whose right and bottom are inclusive here."""
    x1, y1, x2, y2 = frame
    colour, step = (IGNORED, 2 * _DASH) if dashed else (OBJECT, _DASH)
    for x in range(x1, x2 + 1, step):
        for y in (y1, y2):
            cv2.line(picture, (x, y), (min(x + _DASH - 1, x2), y), colour)
    for y in range(y1, y2 + 1, step):
        for x in (x1, x2):
            cv2.line(picture, (x, y), (x, min(y + _DASH - 1, y2)), colour)


def _tile(sample: Sample, side: int) -> Picture:
    """The picture over its caption."""
    picture = draw_boxes(sample, side / max(sample.image.shape[:2]))
    caption = np.full((_CAPTION, max(side, picture.shape[1]), 3), _PAPER, np.uint8)
    ignored = int(sample.ignore.sum())
    text = f"{sample.image_id}: {len(sample.boxes) - ignored} boxes, {ignored} ignored"
    cv2.putText(caption, text, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (_INK,) * 3, 1, cv2.LINE_AA)
    return np.vstack([_padded(picture, picture.shape[0], caption.shape[1]), caption])


def _row(tiles: list[Picture]) -> Picture:
    """Tiles side by side, as high as the highest."""
    height = max(tile.shape[0] for tile in tiles) + _GAP
    return np.hstack([_padded(tile, height, tile.shape[1] + _GAP) for tile in tiles])


def _padded(picture: Picture, height: int, width: int) -> Picture:
    """The picture in the upper left corner of a sheet of paper."""
    paper = np.full((height, width, 3), _PAPER, np.uint8)
    paper[: picture.shape[0], : picture.shape[1]] = picture
    return paper
