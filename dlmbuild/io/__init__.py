"""Bytes, files and names: the layer below everything, which knows nothing of models."""
