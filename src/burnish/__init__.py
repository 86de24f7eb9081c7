"""burnish: turn your own data into a small language model, and prove whether it was worth it."""

from burnish.core.settings import silence_library_hints, yield_cores

__version__ = "0.1.0"

yield_cores()
silence_library_hints()
