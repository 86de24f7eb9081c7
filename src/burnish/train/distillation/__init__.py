"""What a teacher adds to a training."""
