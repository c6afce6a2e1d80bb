"""The Region Proposal Network: plain tensors in and out; knows no config, no data set and no training."""

from anchorlab.exports import exports

__getattr__, __dir__ = exports(__name__)
