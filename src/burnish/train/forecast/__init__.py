"""Time, memory and disk of a training, forecast."""
