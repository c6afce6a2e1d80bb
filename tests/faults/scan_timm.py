"""Every timm model as a backbone: are the strides and channels that it declares those of a forward pass?

    python -m tests.faults.scan_timm [names...]

Shapes alone are computed (torch's meta device), so that a model takes a second. Prints the models that differ and
counts; ends with 1 where a model that builds differs.
"""

import sys
import warnings
from collections import Counter

import timm
import torch

from anchorlab.rpn.backbones.timm_fpn import TimmFPN

SIDE = 512
"""Of the image: a multiple of every model's strides and windows."""


def verdict(name: str) -> str:
    """What becomes of a model: `agrees`, `refused: ...` in a sentence, `cannot be built: ...` or `differs: ...`."""
    with torch.device("meta"):
        try:
            backbone = TimmFPN(name, weights="none")
        except ValueError as error:
            return f"refused: {' '.join(str(error).split()[1:12])}"
        except Exception as error:  # timm raises anything for a model without maps of features
            return f"cannot be built: {type(error).__name__}"
        try:
            with torch.no_grad():
                maps = backbone(torch.zeros(1, 3, SIDE, SIDE))
        except Exception as error:
            return f"differs: {type(error).__name__}: {str(error).splitlines()[0][:100]}"
    wanted = [(backbone.channels, SIDE // stride, SIDE // stride) for stride in backbone.strides]
    found = [tuple(level.shape[1:]) for level in maps]
    return "agrees" if found == wanted else f"differs: {found} instead of {wanted}"


def main(names: list[str]) -> int:
    warnings.filterwarnings("ignore")
    counts: Counter[str] = Counter()
    for name in names or timm.list_models():
        found = verdict(name)
        kind = found.partition(":")[0]
        counts[kind] += 1
        if kind == "differs":
            print(f"{name}: {found}", flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    return int(counts["differs"] > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
