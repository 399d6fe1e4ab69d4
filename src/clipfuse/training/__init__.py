"""The training of a network under a loss, by Lightning."""
