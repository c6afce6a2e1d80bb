"""Which anchors fit a data set, from its boxes alone; and what a trained network makes of each anchor."""
