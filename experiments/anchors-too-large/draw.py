"""The mean IoU of predicted boxes with their objects, step by step, for the runs of README.md beside this file.

python experiments/anchors-too-large/draw.py before=<run folder> start=<run folder> ...

One curve a run, from `train/box_iou` of its metrics.csv; writes curves.png beside itself.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot

from anchorlab.runs.record import read_run

HERE = Path(__file__).parent


def main(arguments: list[str]) -> None:
    matplotlib.use("Agg")
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name, _, folder in (argument.partition("=") for argument in arguments):
        curves = read_run(folder).metrics()
        known = np.isfinite(curves["train/box_iou"])
        axes.plot(curves["step"][known], curves["train/box_iou"][known], label=name)
    axes.set(xlabel="optimizer step", ylabel="mean IoU of predicted boxes with their objects", ylim=(0, 1))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(HERE / "curves.png", dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
