"""What the hosted API does, what ours does, and a check of each with the unmodified client."""
