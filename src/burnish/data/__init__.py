"""Data: files in, checked and split rows out."""
