"""burnish: turn your own data into a small language model, and prove whether it was worth it."""

__version__ = "0.1.0"
