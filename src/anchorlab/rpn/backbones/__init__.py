"""The config group `backbone`: images to feature maps, and where their weights come from."""
