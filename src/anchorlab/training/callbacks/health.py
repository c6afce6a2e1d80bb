"""Callback that warns when a training runs but learns nothing; the warning stays in run.json while it holds.

It does not watch for an infinite or NaN loss: that ends the training elsewhere.
"""

from collections.abc import Mapping

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from anchorlab.console import tell
from anchorlab.runs.record import RunRecord

LEAST_GAIN = 0.5
"""Predicted boxes whose IoU with their objects is below this share of their anchors' IoU are not being learnt.

Boxes that are learnt pass their anchors within the first epoch; those that died stay near 0.
"""
ZERO = 0.0005
"""An AR below this is printed as 0.000."""


class Health(Callback):
    """Looks at the metrics of every validation, on the first process only, and says what is wrong when it first is."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        warnings = warnings_of(metrics)
        for kind in [kind for kind in warnings if kind not in self.record.content["warnings"]]:
            tell(f"warning: {warnings[kind]}")
        self.record.warn(warnings)


def warnings_of(metrics: Mapping[str, float]) -> dict[str, str]:
    """A sentence for each kind of failure that the metrics of a validation (`val/AR_1000`, ...) show.

    A metric that is missing or NaN shows none, and so does an AR of -1: there was no object to find.
    """
    found: dict[str, str] = {}
    boxes, anchors = metrics.get("val/box_iou", 1.0), metrics.get("val/anchor_iou", 0.0)
    if boxes < LEAST_GAIN * anchors:
        found["boxes"] = (
            f"boxes are not being learnt: those predicted for objects have a mean IoU of {boxes:.2f} with them, "
            f"where the anchors themselves have {anchors:.2f}. Lower optimizer.lr, or set head.delta_std=0, "
            f"loss.delta_weight=0.1 and coder=fit, or loss=smooth_l1; smaller anchors may help, too"
        )
    recall = metrics.get("val/AR_1000", 1.0)
    if 0 <= recall < ZERO:
        found["nothing_found"] = "nothing is found: AR@1000 is 0.000, no proposal has an IoU of 0.5 with an object"
    return found
