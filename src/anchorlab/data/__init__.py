"""Files with boxes -> `Sample` -> `Batch`; imports nothing else of this package."""
