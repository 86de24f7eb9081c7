"""Faster layers and attention."""
