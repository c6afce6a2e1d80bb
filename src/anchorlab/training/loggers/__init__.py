"""The config group `logger`; one logger a file."""
