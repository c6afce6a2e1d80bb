"""The Region Proposal Network: plain tensors in and out; imports only `errors` of this project."""

from anchorlab.exports import exports

__getattr__, __dir__ = exports(__name__)
