"""Engines of models with a head."""
