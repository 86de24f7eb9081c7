"""Where long tasks run: a process here, or a Ray cluster."""
