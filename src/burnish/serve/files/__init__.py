"""/files and /uploads."""
