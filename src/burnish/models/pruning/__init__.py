"""Prune models: fewer layers, narrower layers, a smaller vocabulary."""
