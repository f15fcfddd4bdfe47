"""The nearest vectors of a cache, exact and approximate, by FAISS."""
