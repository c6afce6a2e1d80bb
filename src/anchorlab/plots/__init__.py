"""Figures, drawn with matplotlib's Figure (no pyplot: no process keeps figures open), and the page on anchors."""
