"""The config group `assigner`: label every anchor object, background or ignored; one choice a file."""
