"""What a run leaves behind, how it is read back and compared; stands on ranks.py and settings.py, knows no torch."""
