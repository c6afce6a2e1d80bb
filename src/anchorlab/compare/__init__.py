"""Runs side by side: statistics, tables, the HTML page and the W&B workspace; knows no torch."""
