"""Import of mteb's caches, and export to them."""
