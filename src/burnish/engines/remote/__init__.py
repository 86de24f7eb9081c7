"""Engines behind somebody else's server."""
