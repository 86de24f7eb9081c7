"""Executors for long tasks: local processes, or a Ray cluster."""
