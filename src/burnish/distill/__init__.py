"""Floor 4: a student."""
