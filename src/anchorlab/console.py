"""Console output: the stream that text for people is written to."""

import os
import sys

from rich.console import Console

SWEEP_JOB = "ANCHORLAB_SWEEP_JOB"
"""Set in the environment of a sweep's jobs, which leave their screens to the sweep's tables."""


def console() -> Console:
    """A console as wide as the terminal, and 110 columns where the output goes to a file."""
    on_terminal = sys.stdout.isatty()
    return Console(highlight=False, width=None if on_terminal else 110, soft_wrap=not on_terminal)


def in_sweep() -> bool:
    """Whether this process is a job of a sweep."""
    return SWEEP_JOB in os.environ
