"""Rows to batches: examples, order, micro-batches, packing."""
