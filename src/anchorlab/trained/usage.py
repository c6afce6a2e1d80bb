"""Python that uses an exported file: for the model card, and run in a process of its own as a check.

Every program defines `propose(photo)`: (H, W, 3) uint8 RGB -> boxes (P, 4) in its pixels, and scores (P,).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anchorlab.errors import SettingError

FILES = ("model.safetensors", "model.pt2", "model.onnx")
"""What export.py writes that proposes boxes."""

EXAMPLE = """

boxes, scores = propose(cv2.cvtColor(cv2.imread("photo.jpg"), cv2.COLOR_BGR2RGB))
"""
"""The last lines of every program."""

_ALL = """

import json, sys

found = {}
for row, path in enumerate(json.load(sys.stdin)):
    pixels = cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    found[f"boxes_{row}"], found[f"scores_{row}"] = propose(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
np.savez(sys.argv[1], **found)
"""

_SAFETENSORS = """\
import cv2
import numpy as np

from anchorlab.trained.proposer import Proposer

propose = Proposer("."{allow})
"""

_PT2 = """\
import cv2
import numpy as np
import torch
import torchvision  # registers the NMS that model.pt2 calls

model = torch.export.load("model.pt2").module()


def run(images):
    with torch.no_grad():
        return [output.numpy() for output in model(torch.from_numpy(images))]
"""

_ONNX = """\
import cv2
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")


def run(images):
    return session.run(None, {"image": images})
"""

_RESIZED = """

def propose(photo):
    height, width = photo.shape[:2]
    scale = {scale}
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    shrunk = max(size[0] / width, size[1] / height) <= 0.5
    image = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if shrunk else cv2.INTER_LINEAR)
    image = np.ascontiguousarray(image.transpose(2, 0, 1)[np.newaxis])
{run}    return boxes / np.tile(np.divide(size, (width, height)), 2), scores
"""


_ONE = """\
    boxes, scores = run(image)
"""

_ONE_OF_SEVERAL = """\
    images = np.repeat(image, {batch}, axis=0)  # the file takes {batch} images of one size at a time
    boxes, scores, num = run(images)  # {batch} rows each; of image 0 the first num[0] proposals are its own
    boxes, scores = boxes[0, : num[0]], scores[0, : num[0]]
"""


def program(file: str, short: int | None, long: int | None, allow: Sequence[str] = (), batch: int = 1) -> str:
    """The lines that use one of `FILES` from its folder.

    Args:
        short: with `long`, the size of the network's input as `data.resize.target_size` has it.
        allow: as `Proposer`'s.
        batch: how many images a graph takes at a time.
    """
    if file == "model.safetensors":
        return _SAFETENSORS.format(allow=f", allow={list(allow)}" if allow else "") + EXAMPLE
    run = _ONE if batch == 1 else _ONE_OF_SEVERAL.format(batch=batch)
    graph = {"model.pt2": _PT2, "model.onnx": _ONNX}[file]
    return graph + _RESIZED.format(scale=_scale(short, long), run=run) + EXAMPLE


def run_program(program: str, file: Path, photos: Sequence[Path]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes and scores of each photograph, by the lines of a program in a fresh Python process beside its file.

    Raises:
        SettingError: the process failed; its last line.
    """
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch, "found.npz")
        done = subprocess.run(
            [sys.executable, "-c", program.removesuffix(EXAMPLE) + _ALL, str(answer)],
            input=json.dumps([str(photo.resolve()) for photo in photos]),
            cwd=file.parent,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SettingError(f"{file}, used as MODEL_CARD.md says, failed: {last}")
        with np.load(answer) as found:
            return [(found[f"boxes_{row}"], found[f"scores_{row}"]) for row in range(len(photos))]


def _scale(short: int | None, long: int | None) -> str:
    sides = [f"{side} / {end}(height, width)" for side, end in ((short, "min"), (long, "max")) if side is not None]
    return {0: "1", 1: sides[0] if sides else "1"}.get(len(sides), f"min({', '.join(sides)})")
