"""The config group `proposals`: scored anchors to few boxes; one way a file."""
