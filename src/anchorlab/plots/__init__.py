"""Every picture, drawn with matplotlib's Figure (no pyplot: no process holds figures open), and the page on anchors."""
