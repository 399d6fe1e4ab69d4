"""Fusion metrics: one pure function per metric, and a torchmetrics class that averages it."""
