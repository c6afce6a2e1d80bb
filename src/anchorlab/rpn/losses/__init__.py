"""The config groups `loss`, `objectness` and `quality`: what the sampled anchors cost."""
