"""Building the network from a config and training it."""

from anchorlab.exports import exports

__getattr__, __dir__ = exports(__name__)
