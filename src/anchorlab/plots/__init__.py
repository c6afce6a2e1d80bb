"""Every picture, drawn with matplotlib's Figure: no pyplot, so that no process holds figures open."""
