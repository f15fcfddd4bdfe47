"""The one algorithm: look up, encode what is missing, store it, read everything back."""
