"""Recall, and every figure's name, budget and meaning."""
