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

_EXAMPLE = """

boxes, scores = propose(cv2.cvtColor(cv2.imread("photo.jpg"), cv2.COLOR_BGR2RGB))
"""

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


def run(image):
    with torch.no_grad():
        boxes, scores = model(torch.from_numpy(image))
    return boxes.numpy(), scores.numpy()
"""

_ONNX = """\
import cv2
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")


def run(image):
    return session.run(["boxes", "scores"], {"image": image})
"""

_RESIZED = """

def propose(photo):
    height, width = photo.shape[:2]
    scale = {scale}
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    shrunk = max(size[0] / width, size[1] / height) <= 0.5
    image = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if shrunk else cv2.INTER_LINEAR)
    boxes, scores = run(np.ascontiguousarray(image.transpose(2, 0, 1)[np.newaxis]))
    return boxes / np.tile(np.divide(size, (width, height)), 2), scores
"""


def program(file: str, short: int | None, long: int | None, allow: Sequence[str] = ()) -> str:
    """The lines that use one of `FILES` from its folder.

    Args:
        short: with `long`, the size of the network's input as `data.resize.target_size` has it.
        allow: as `Proposer`'s.
    """
    return _function(file, short, long, allow) + _EXAMPLE


def run_program(
    file: str, short: int | None, long: int | None, folder: Path, photos: Sequence[Path], allow: Sequence[str] = ()
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes and scores of each photograph, by the lines of `program` in a fresh Python process in `folder`.

    Raises:
        SettingError: the process failed; its last line.
    """
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch, "found.npz")
        done = subprocess.run(
            [sys.executable, "-c", _function(file, short, long, allow) + _ALL, str(answer)],
            input=json.dumps([str(photo.resolve()) for photo in photos]),
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SettingError(f"{folder / file}, used as MODEL_CARD.md says, failed: {last}")
        with np.load(answer) as found:
            return [(found[f"boxes_{row}"], found[f"scores_{row}"]) for row in range(len(photos))]


def _function(file: str, short: int | None, long: int | None, allow: Sequence[str]) -> str:
    if file == "model.safetensors":
        return _SAFETENSORS.format(allow=f", allow={list(allow)}" if allow else "")
    return {"model.pt2": _PT2, "model.onnx": _ONNX}[file] + _RESIZED.format(scale=_scale(short, long))


def _scale(short: int | None, long: int | None) -> str:
    sides = [f"{side} / {end}(height, width)" for side, end in ((short, "min"), (long, "max")) if side is not None]
    return {0: "1", 1: sides[0] if sides else "1"}.get(len(sides), f"min({', '.join(sides)})")
