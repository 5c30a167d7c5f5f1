"""Compression: recipes of methods, one file per method, and the compressed model they make."""
