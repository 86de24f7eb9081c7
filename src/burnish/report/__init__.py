"""Floor 3: a page to show."""
