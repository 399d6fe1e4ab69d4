"""Scorers of fused images: the interface, a small network, how it is trained, and the one in the package."""
