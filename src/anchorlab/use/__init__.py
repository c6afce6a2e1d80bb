"""What a trained network is for: scored, run on new images, handed over and explained; nothing here trains."""
