"""The demonstration: a real model on real text, uncached, with a cold cache and with a warm cache."""
