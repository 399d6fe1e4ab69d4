"""What is shown of a run: curves, images, notes, progress."""
