"""Floor 2: whatever answers a prompt, behind one small protocol."""
