"""From a micro-batch to logits: the ways through a model, and the proof that one is right."""
