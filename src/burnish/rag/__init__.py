"""Retrieval: documents in, passages with their source that answer a question out."""
