"""Floor 4: a verdict."""
