"""/batches."""
