"""Pairs of images: files, folders, splits, transforms, the data module."""
