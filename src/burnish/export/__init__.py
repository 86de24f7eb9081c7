"""Floor 4: what is shipped, and the proof that it still answers like what was trained."""
