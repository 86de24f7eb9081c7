"""Formats that weights are written in, by name."""
