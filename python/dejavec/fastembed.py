"""Cached models for FastEmbed."""

from dejavec.adapters.fastembed import (
    CachedLateInteractionTextEmbedding,
    CachedSparseTextEmbedding,
    CachedTextEmbedding,
)

__all__ = ["CachedLateInteractionTextEmbedding", "CachedSparseTextEmbedding", "CachedTextEmbedding"]
