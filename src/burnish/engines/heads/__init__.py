"""Engines for models with a head."""
