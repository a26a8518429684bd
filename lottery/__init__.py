"""Honest, quick, memory-lean measurement of what pruning does to open language models."""

__version__ = "0.1.0"
