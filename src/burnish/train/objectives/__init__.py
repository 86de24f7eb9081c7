"""Training objectives: batches and loss, by name."""
