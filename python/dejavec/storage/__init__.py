"""One directory of vectors by key, with their identity."""
