"""The config group `callbacks`, and what every training adds; one callback a file."""
