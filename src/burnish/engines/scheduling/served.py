"""The type of engines that the scheduler serves."""

from burnish.engines.external.base import ExternalEngine
from burnish.engines.protocol import BatchedEngine

#: Decoded by the scheduler, or answered by a child process on its own.
ServedEngine = BatchedEngine | ExternalEngine
