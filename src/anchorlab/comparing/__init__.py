"""Comparison of runs: statistics, tables, the HTML page and the W&B workspace; imports no torch."""
