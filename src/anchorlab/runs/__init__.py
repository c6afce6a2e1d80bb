"""Run folders: the files that a run leaves behind, written and read; imports no torch."""
