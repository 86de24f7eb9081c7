"""Background tasks and periodic threads."""
