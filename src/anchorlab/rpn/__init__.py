"""The Region Proposal Network: plain tensors in and out; imports only `errors` of this project."""
