"""Hydra launcher of ClipFuse: one fresh process per job."""
