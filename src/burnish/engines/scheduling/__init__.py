"""Many requests on few models: queues, batches, adapters, caches."""
