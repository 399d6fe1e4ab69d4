"""A sample of a plugin package."""
