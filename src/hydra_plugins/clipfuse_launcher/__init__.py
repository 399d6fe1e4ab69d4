"""Hydra launchers of ClipFuse: one fresh process per job.

Hydra executes the modules here anew when it looks for plugins, except those named with an underscore.
"""
