"""The recipe: one file a section."""
