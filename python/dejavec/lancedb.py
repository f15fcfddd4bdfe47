"""Cached embedding functions for LanceDB."""

from dejavec.adapters.lancedb import cache_embeddings

__all__ = ["cache_embeddings"]
