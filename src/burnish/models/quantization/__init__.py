"""Weights of 4 bits."""
