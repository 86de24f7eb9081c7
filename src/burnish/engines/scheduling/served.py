"""The engines that the scheduler serves."""

from burnish.engines.external.base import ExternalEngine
from burnish.engines.protocol import BatchedEngine

#: What the scheduler serves: stepped by itself, or answered by a child in its own way.
ServedEngine = BatchedEngine | ExternalEngine
