"""Floor 3: scores with their uncertainty."""
