"""Training: the Lightning module, the Trainer, resuming and stopping of one run."""
