"""Callback that ends a run once its validations no longer improve; a result of the run, unlike `StopAfter`'s rungs."""

from collections.abc import Iterable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping

from anchorlab.metrics.from_ranks import BUDGETS, metric_keys
from anchorlab.signatures import ArgumentError, Count, NotNegative, Text, checked


@checked
class EarlyStopping(LightningEarlyStopping):
    """Ends the fit after a validation when none of the last `patience` was better than the best before them.

    The learning-rate schedule is that of the full run: a run that ends early never reaches its end.

    Args:
        metric: of a validation, such as AR_100 (higher is better), or loss (lower is better).
        patience: validations.
        min_delta: by how much a validation must be better to count.
    """

    def __init__(self, metric: Text = "AR_100", patience: Count = 5, min_delta: NotNegative = 0) -> None:
        known = metric_keys(BUDGETS)
        if metric != "loss" and metric not in known:
            raise ArgumentError("metric", metric, f"loss or a metric of a validation such as {known[0]}")
        self.metric = metric
        super().__init__(
            f"val/{metric}",
            patience=patience,
            min_delta=min_delta,
            mode="min" if metric == "loss" else "max",
            check_finite=False,
            check_on_train_epoch_end=False,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.why is not None:  # killed between its last validation and its end
            trainer.should_stop = True

    @property
    def why(self) -> str | None:
        """The reason why it ended the fit, in a sentence; None where it did not."""
        if self.wait_count < self.patience:
            return None
        count = f"{self.wait_count} validation{'s' * (self.wait_count > 1)}"
        return f"stopped early, as {self.metric} has not improved on {float(self.best_score):.3f} for {count}"


def stopped_early(callbacks: Iterable[Callback]) -> str | None:
    """Why one of a trainer's callbacks ended its fit early; None where none did."""
    return next((why for one in callbacks if isinstance(one, EarlyStopping) and (why := one.why)), None)
