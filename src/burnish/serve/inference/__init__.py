"""/chat/completions, /completions, /embeddings, /models."""
