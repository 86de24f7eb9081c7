"""A sandbox for graders' code."""
