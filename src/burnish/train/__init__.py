"""Floor 3: weights that move."""
