"""The 32-byte keys of items."""
