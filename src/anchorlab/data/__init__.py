"""Data: files with boxes -> `Sample` -> `Batch`; knows no network and no config."""

from anchorlab.exports import exports

__getattr__, __dir__ = exports(__name__)
