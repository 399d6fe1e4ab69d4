"""What a run shows: curves, images, tables, progress."""
