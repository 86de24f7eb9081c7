"""Floor 7: one file a word: parse, call, print."""
