"""Parameter-efficient methods, by name."""
