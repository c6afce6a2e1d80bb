"""Where text for people goes."""

import sys

from rich.console import Console


def console() -> Console:
    """A console as wide as the terminal, and 110 columns where the output goes to a file."""
    on_terminal = sys.stdout.isatty()
    return Console(highlight=False, width=None if on_terminal else 110, soft_wrap=not on_terminal)
