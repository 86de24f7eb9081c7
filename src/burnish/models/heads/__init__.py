"""Heads on encoders and decoders: labels, spans, vectors, scores."""
