"""The Hydra groups of the package."""
