"""Encoders of sentence-transformers with cached vectors."""

from __future__ import annotations

from dejavec.adapters.sentence_transformers.encoders import (
    CachedMultiVectorEncoder,
    CachedSentenceTransformer,
    CachedSparseEncoder,
)

__all__ = ["CachedMultiVectorEncoder", "CachedSentenceTransformer", "CachedSparseEncoder"]
