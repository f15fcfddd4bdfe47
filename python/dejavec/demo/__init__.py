"""The demonstration: a real model on real text, without the cache, with it cold and with it warm."""
