"""Cached embedding functions for Chroma."""

from dejavec.adapters.chroma import CachedEmbeddingFunction, CachedSparseEmbeddingFunction

__all__ = ["CachedEmbeddingFunction", "CachedSparseEmbeddingFunction"]
