"""Floor 1: files in, checked and split rows out."""
