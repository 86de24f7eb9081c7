"""burnish: turn your own data into a small language model, and prove whether it was worth it."""

from burnish.core.settings import hush, yield_cores

__version__ = "0.1.0"

yield_cores()
hush()
