"""Figures, drawn with matplotlib's Figure: no pyplot, so that no process keeps figures open."""
