"""Procedural, registered infrared/visible street scenes: data for the demo, the tests and the studies."""

from clipfuse.data.synthetic.source import SyntheticPairs, render

__all__ = ["SyntheticPairs", "render"]
