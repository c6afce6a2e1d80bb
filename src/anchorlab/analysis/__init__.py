"""Anchor analysis: how anchors fit a data set's boxes, and what a trained network makes of each anchor; trains
nothing.
"""
