"""Smaller models out of larger ones: fewer layers, narrower ones, a smaller vocabulary."""
