"""What a run leaves behind, and how it is read back; imports nothing else of this package."""
