"""Callback that reports, after training, where recall was lost and what each anchor shape contributed."""

import json
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from anchorlab.analysis.attribution import AnchorReport, anchor_report
from anchorlab.analysis.coverage import cover
from anchorlab.analysis.ground_truth import BackboneGrids, truth_of
from anchorlab.console import tell
from anchorlab.data.module import DataModule
from anchorlab.runs.files import write_whole
from anchorlab.signatures import Count, CountOrZero, checked
from anchorlab.training.callbacks.pictures import predict
from anchorlab.training.callbacks.stop_after import stopped_after
from anchorlab.training.loggers.hub import loggers_of
from anchorlab.training.module import RPNModule


@checked
class AnchorOutcome(Callback):
    """Writes anchors.json (see `AnchorReport.values`) and figures/{funnel,attribution,coverage}.png; logs both.

    On the first process only, with the weights that training ended with; not where it stopped to be resumed.

    Args:
        images: validation images, evenly spread over the split; each costs about as long as the proposals of k images
            on each level. 0: nothing is computed.
        budget: proposals per image that count.
    """

    only_watches = True

    def __init__(self, images: CountOrZero, budget: Count) -> None:
        self.images, self.budget = images, budget

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        if self.images == 0 or not trainer.is_global_zero or stopped_after(callbacks) is not None:
            return
        from anchorlab.plots.anchor_report import in_words, table_rows  # matplotlib: not before the first step
        from anchorlab.plots.boxes import save
        from anchorlab.plots.coverage import coverage_map

        assert isinstance(pl_module, RPNModule)
        data: DataModule = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        folder = Path(trainer.default_root_dir)
        report, files = keep_outcome(pl_module, data, self.images, self.budget, folder)
        truth = truth_of(data, "train", BackboneGrids(pl_module.network.backbone))
        if len(truth):
            coverage = cover(truth, pl_module.network.anchors, pl_module.network.assigner)
            figure = coverage_map(coverage, f"What the anchors cover: {len(truth):,} training boxes")
            files.append(save(figure, folder / "figures" / "coverage.png"))
        for line in in_words(report):
            tell(f"{report.images} validation images: {line}")
        loggers = loggers_of(trainer)
        loggers.log_table("anchors", *table_rows(report))
        loggers.log_table("funnel", *_rows(report))
        for path in files:  # a key each: W&B takes one size for all images of a key
            loggers.log_image(f"anchors/{path.stem}", path)


def keep_outcome(
    module: RPNModule, data: DataModule, images: int, budget: int, folder: Path
) -> tuple[AnchorReport, list[Path]]:
    """The report on so many images of the split that is scored; anchors.json and two figures in `folder`."""
    from anchorlab.plots.anchor_report import attribution_figure, funnel_figure  # as above
    from anchorlab.plots.boxes import save

    report = _report(module, data, images, budget)
    write_whole(folder / "anchors.json", f"{json.dumps(report.values(), indent=2)}\n".encode())
    figures = {"funnel": funnel_figure(report), "attribution": attribution_figure(report)}
    return report, [save(figure, folder / "figures" / f"{name}.png") for name, figure in figures.items()]


def _report(module: RPNModule, data: DataModule, images: int, budget: int) -> AnchorReport:
    batches = data.few(data.validate_on, images)
    return anchor_report(module.network, ((predict(module, batch), batch) for batch in batches), budget)


def _rows(report: AnchorReport) -> tuple[list[str], list[list[str | float]]]:
    rows = report.funnel.rows()
    return list(rows[0]), [list(row.values()) for row in rows]
