"""Training: the Lightning module, the Trainer, resuming and stopping of one run."""

from anchorlab.exports import exports

__getattr__, __dir__ = exports(__name__)
