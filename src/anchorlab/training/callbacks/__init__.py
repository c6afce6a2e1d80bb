"""Callbacks of the config group `callbacks`, and those that every training adds; one per file."""
