"""Floor 1: the one door to weights, tokenizers and chat templates."""
