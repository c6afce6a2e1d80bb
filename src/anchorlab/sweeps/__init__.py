"""Sweeps: many runs from one command line, each job in its own process; imports no torch."""
