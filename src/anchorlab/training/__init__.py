"""Building the network from a config and training it."""
