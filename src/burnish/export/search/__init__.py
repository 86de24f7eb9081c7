"""The search for the format that fits this machine."""
