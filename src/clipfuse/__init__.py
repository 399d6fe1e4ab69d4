"""ClipFuse: infrared-visible image fusion where only the loss changes and the numbers can be trusted."""

__version__ = "0.1.0"
