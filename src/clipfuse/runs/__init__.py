"""The run folder, from a composed configuration to its scores."""
