"""Benchmark of what a person waits for: seconds of training until the recall that a tuned torchvision ends with.

Whole trainings of several lengths, each with a schedule of its own, one after another in processes of their own, on
the same threads and the same images (data sets below $ANCHORLAB_DATA, EfficientNet-Lite0-FPN). torchvision's RPN has
the better of two learning rates and bf16, where it is quickest. A fifth of the training images is held out and scored.
Seconds are those of the steps and of waiting for data (run.json); start and validation, the same for all, are not in
them. Runs lie in outputs/time-to-recall/<commit>: those that are finished are not trained again.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from anchorlab.runs import environment
from benchmarks.measure import Options, Row, parse, report, set_threads
from benchmarks.start import SMALL

ROOT = Path(__file__).parents[1]
BATCH = 4
FIGURES = ("AR_100", "AR_1000")
SETS = {
    "BCCD": ("bccd/BCCD", "data.on_error=skip"),
    "chess": ("chess",),
    "VOC 2007": ("voc07",),
}
TORCHVISION, PLAIN, RECOMMENDED = "torchvision's RPN", "plain RPN", "recommended"
OURS = (PLAIN, RECOMMENDED)
PROGRAMS = {
    TORCHVISION: ("experiments/recipe/torchvision_rpn.py", "trainer.precision=bf16"),
    PLAIN: ("train.py", "experiment=recipe", "trainer.precision=32"),
    RECOMMENDED: ("train.py", "experiment=recommended", "trainer.precision=32"),
}
SETTINGS = (
    *(
        "data=auto",
        "backbone.batch_norm=affine",
        "data.long=256",
        f"data.batch_size={BATCH}",
        "data.pad_to=32",
        "data.holdout=0.2",
    ),
    *("data.workers=0", "data.cache=disk", "preflight=none", "logger=none"),
    *("callbacks.pictures.images=0", "callbacks.outcome.images=0"),
)
QUICK_SETTINGS = (
    *("backbone=resnet18_fpn", "backbone.weights=none", "backbone.fpn_channels=16"),
    *("data.workers=0", "preflight=none", "logger=none"),
)


@dataclass(frozen=True)
class Plan:
    """What is trained on each data set.

    rates: learning rates of torchvision, the first also of ours. steps: of torchvision. budgets: steps of ours.
    """

    seeds: int
    rates: Sequence[float] = (0.0005, 0.001)
    steps: int = 300
    budgets: Sequence[int] = (300, 150, 75, 40)


QUICK = Plan(1, (0.0005,), 1, (1,))


@dataclass(frozen=True)
class Training:
    """One training: of which side, on which data, how many optimizer steps."""

    data: str
    side: str
    steps: int
    seed: int
    lr: float


class Result(NamedTuple):
    """What a training was bought for."""

    training: Training
    seconds: float
    recall: dict[str, float]


class Trainer:
    """Runs trainings of the sets, each once."""

    def __init__(self, folder: Path, threads: int, sets: Mapping[str, Sequence[str]], settings: Sequence[str]) -> None:
        self.folder = folder
        self.threads = threads
        self.sets = sets
        self.settings = settings

    def __call__(self, training: Training) -> Result:
        names = (training.data, training.side, str(training.steps), str(training.lr), str(training.seed))
        run = self.folder / "-".join(names).replace(" ", "-").replace("'", "")
        record = run / "run.json"
        if not record.exists() or json.loads(record.read_text())["status"] != "finished":
            self._train(training, run)
        content = json.loads(record.read_text())
        final, rate = content["figures"]["final"], content["timings"]["train_images_per_s"]
        return Result(training, training.steps * BATCH / rate, {name: final[name] for name in FIGURES})

    def _train(self, training: Training, run: Path) -> None:
        root, *data = self.sets[training.data]
        program, *own = PROGRAMS[training.side]
        print(f"{training.data}: {training.side}, {training.steps} steps, seed {training.seed}", flush=True)
        epochs = 1000  # more than the steps need
        words = [f"data.root={root}", *data, *own, *self.settings, f"trainer.max_steps={training.steps}"]
        words += [f"trainer.epochs={epochs}", f"trainer.val_every={epochs}", f"trainer.threads={self.threads}"]
        words += [f"optimizer.lr={training.lr}", f"seed={training.seed}", f"hydra.run.dir={run}", "overwrite=true"]
        done = subprocess.run([sys.executable, program, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"error: {' '.join(words)}: {done.stderr.strip()}")


def trained(train: Trainer, data: str, plan: Plan) -> Iterator[Result]:
    """Every training on a data set; of torchvision's rates all with the first seed, the better one with the others."""
    tried = [train(Training(data, TORCHVISION, plan.steps, 0, lr)) for lr in plan.rates]
    best = max(tried, key=lambda result: result.recall["AR_100"])
    yield best
    for seed in range(1, plan.seeds):
        yield train(Training(data, TORCHVISION, plan.steps, seed, best.training.lr))
    for seed in range(plan.seeds):
        for side in OURS:
            yield from (train(Training(data, side, steps, seed, plan.rates[0])) for steps in plan.budgets)


def rows_of(results: Sequence[Result], figure: str) -> list[Row]:
    """For each data set and side of ours: the shortest training that has torchvision's recall, means over seeds."""
    rows = []
    for data in dict.fromkeys(result.training.data for result in results):
        here = [result for result in results if result.training.data == data]
        theirs = [result for result in here if result.training.side == TORCHVISION]
        goal, seconds = mean(one.recall[figure] for one in theirs), mean(one.seconds for one in theirs)
        for side in OURS:
            of_side = [result for result in here if result.training.side == side]
            found = shortest(of_side, figure, goal)
            ours = mean(one.seconds for one in found) if found else math.nan
            each = [their.seconds / one.seconds for their, one in zip(theirs, found, strict=True)] if found else []
            rows.append(
                {
                    "data": data,
                    "figure": figure,
                    "torchvision's at its end": goal,
                    "after s": seconds,
                    "side": side,
                    "steps": found[0].training.steps if found else "not reached",
                    "has": mean(one.recall[figure] for one in found) if found else math.nan,
                    "s": ours,
                    "times sooner": seconds / ours,
                    "by seed": f"{min(each):.3g} to {max(each):.3g}" if each else "",
                }
            )
    return rows


def shortest(results: Sequence[Result], figure: str, goal: float) -> list[Result]:
    """The seeds of the fewest steps whose mean recall is at least `goal`; none where no training has it."""
    for steps in sorted({result.training.steps for result in results}):
        of_steps = [result for result in results if result.training.steps == steps]
        if mean(result.recall[figure] for result in of_steps) >= goal:
            return of_steps
    return []


def draw(results: Sequence[Result], path: Path) -> None:
    """Recall over seconds of training, a column for each data set: whole trainings, means over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator

    sets = list(dict.fromkeys(result.training.data for result in results))
    size = (4.2 * len(sets), 3.4 * len(FIGURES))
    figure, axes = plt.subplots(len(FIGURES), len(sets), squeeze=False, figsize=size, layout="constrained")
    for row, name in enumerate(FIGURES):
        for column, data in enumerate(sets):
            axis = axes[row][column]
            for side, marker in ((TORCHVISION, "*"), (PLAIN, "s"), (RECOMMENDED, "o")):
                of_side = [one for one in results if (one.training.data, one.training.side) == (data, side)]
                steps = sorted({one.training.steps for one in of_side})
                points = [[one for one in of_side if one.training.steps == count] for count in steps]
                seconds = [mean(one.seconds for one in point) for point in points]
                recall = [mean(one.recall[name] for one in point) for point in points]
                axis.plot(seconds, recall, marker=marker, markersize=6 if marker != "*" else 12, label=side)
                if side == TORCHVISION:
                    axis.axhline(recall[-1], color="grey", linewidth=0.8, linestyle="--")
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.minorticks_off()
            axis.set(title=f"{data}, {name.replace('_', '@')}", xlabel="seconds of training")
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(options: Options) -> None:
    set_threads(options.threads or 1)
    plan = QUICK if options.quick else Plan(options.num_repeats(3))
    setting = {"layout": "auto", "precision": "float32, torchvision's bf16", "repeats": plan.seeds, **vars(plan)}
    claim = "Seconds of training until the recall that a tuned torchvision has at its end: whole trainings."
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        train = quick_trainer(Path(scratch)) if options.quick else trainer(options)
        for data in train.sets:
            results += trained(train, data, plan)
            rows = [row for figure in FIGURES for row in rows_of(results, figure)]
            report("time_to_recall", claim, rows, setting, options, ["The curves are time_to_recall.png."])
            if options.results is not None:
                draw(results, options.results / "time_to_recall.png")


def trainer(options: Options) -> Trainer:
    if not os.environ.get("ANCHORLAB_DATA"):
        raise SystemExit("error: ANCHORLAB_DATA names no folder: set it to the one that holds bccd/, voc07/ and chess/")
    source = Path(os.environ["ANCHORLAB_DATA"])
    sets = {name: (str(source / root), *own) for name, (root, *own) in SETS.items()}
    commit, _ = environment.commit()
    folder = ROOT / "outputs" / "time-to-recall" / str(commit)[:7]
    return Trainer(folder, options.threads or 1, sets, SETTINGS)


def quick_trainer(scratch: Path) -> Trainer:
    return Trainer(
        scratch / "runs", 1, {"built-in": (str(scratch / "drawn"), "data=synthetic", *SMALL)}, QUICK_SETTINGS
    )


if __name__ == "__main__":
    main(parse(__doc__))
