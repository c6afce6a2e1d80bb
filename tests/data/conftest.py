"""Small data sets on disk, made of plain grey images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteImage = Callable[..., Path]


@pytest.fixture
def write_image() -> WriteImage:
    """`write_image(path, height, width, grey=0)` saves an image in the format of its suffix and gives its path."""

    def write(path: Path, height: int, width: int, grey: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((height, width, 3), grey, np.uint8)).save(path)
        return path

    return write
