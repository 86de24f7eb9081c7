"""Engines in this process."""
