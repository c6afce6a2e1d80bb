"""Every timm model as a backbone: are the strides and channels that it declares those of a forward pass?

    python -m tests.faults.scan_timm [names...]

Shapes alone are computed (torch's meta device), so that a model takes a second. A stride is how much an image grows for
each cell more: convolutions without padding leave out cells at its border. Prints the models that differ or cannot be
built, and counts; ends with 1 where there is one.
"""

import sys
import warnings
from collections import Counter

import timm
import torch

from anchorlab.rpn.backbones.timm_fpn import TimmFPN

SIDES = (512, 1024)
"""Of the image: multiples of every model's strides and windows."""
MISSING = 4
"""Cells that convolutions without padding may leave out."""


def verdict(name: str) -> str:
    """What becomes of a model: `agrees`, `refused: ...` in a sentence, `cannot be built: ...` or `differs: ...`."""
    with torch.device("meta"):
        try:
            backbone = TimmFPN(name, weights="none")
        except ValueError as error:
            return f"refused: {' '.join(str(error).split()[1:12])}"
        except Exception as error:  # timm raises anything for a model without maps of features
            return f"cannot be built: {type(error).__name__}: {str(error)[:100]!r}"
        try:
            with torch.no_grad():
                maps = backbone(torch.zeros(1, 3, *SIDES))
        except Exception as error:
            return f"differs: {type(error).__name__}: {str(error)[:100]!r}"
    more = SIDES[1] - SIDES[0]
    wanted = [(backbone.channels, more // stride) for stride in backbone.strides]
    found = [(level.shape[1], level.shape[3] - level.shape[2]) for level in maps]
    few = [SIDES[0] // stride - level.shape[2] for level, stride in zip(maps, backbone.strides, strict=True)]
    fits = found == wanted and all(0 <= missing <= MISSING for missing in few)
    return "agrees" if fits else f"differs: {[tuple(level.shape[1:]) for level in maps]}, strides {backbone.strides}"


def main(names: list[str]) -> int:
    warnings.filterwarnings("ignore")
    counts: Counter[str] = Counter()
    for name in names or timm.list_models():
        found = verdict(name)
        kind = found.partition(":")[0]
        counts[kind] += 1
        if kind in ("differs", "cannot be built"):
            print(f"{name}: {found}", flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    return int(counts["differs"] + counts["cannot be built"] > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
