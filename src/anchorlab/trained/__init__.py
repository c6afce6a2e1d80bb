"""A trained network from a folder or a file, and what is done with it; nothing here trains."""
