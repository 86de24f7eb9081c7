"""Engines behind a remote server."""
