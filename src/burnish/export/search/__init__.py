"""The search for the export format that fits this machine."""
