"""Asking a model: the trained adapter through transformers, the export through llama.cpp."""
