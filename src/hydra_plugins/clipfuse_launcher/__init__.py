"""Hydra launchers of ClipFuse: one fresh process per job.

Hydra executes these modules again when it looks for plugins, except those named with an underscore.
"""
