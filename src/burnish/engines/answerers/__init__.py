"""Models that answer as teacher or judge."""
