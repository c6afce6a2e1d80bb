"""The small data set and the command of the training tests, for sweeps over them."""

from tests.training.conftest import small, train

__all__ = ["small", "train"]
