"""From the caches that mteb wrote to ours, and back."""
