"""The Region Proposal Network: plain tensors in and out; imports nothing else of this package."""
