"""Floor 5: Olive's command lines, run by burnish's own training and export."""
