"""From an item to its key of 32 bytes."""
