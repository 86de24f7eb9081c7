"""Passages with their source: documents in, the passages that answer a question out."""
