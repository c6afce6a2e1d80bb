"""AnchorLab's version, as the package and what it writes give it."""

__version__ = "0.1.0"
