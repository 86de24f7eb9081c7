"""/responses."""
