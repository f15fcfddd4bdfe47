"""The one algorithm: look up items, encode the misses, store them, read everything back."""
