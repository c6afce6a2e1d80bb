"""Recall, and every metric's name, budget and meaning."""

from anchorlab.exports import exports

__getattr__, __dir__ = exports(__name__)
