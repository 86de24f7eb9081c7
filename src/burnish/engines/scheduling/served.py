"""The engines that the scheduler serves."""

from burnish.engines.external.base import ChildEngine
from burnish.engines.protocol import Stepped

#: What the scheduler serves: stepped by itself, or answered by a child in its own way.
Served = Stepped | ChildEngine
