"""Floor 0: the records that travel between rooms, the recipe, errors, folders, statistics."""
