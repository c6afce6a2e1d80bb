"""Layouts: how tools lay out a data set on disk. Each module here recognises one, and a new file is found by itself.

A recogniser is a function `recognise(tree, naming)` that answers with a `Found` (layout.py) or None. It decides by
names and by a look at the first lines of a few files; it never reads annotations through.
"""
