"""What the proofs of forward paths have in common."""
