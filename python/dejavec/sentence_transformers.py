"""Encoders of sentence-transformers with cached vectors."""

from __future__ import annotations

from dejavec.adapters.sentence_transformers import (
    CachedMultiVectorEncoder,
    CachedSentenceTransformer,
    CachedSparseEncoder,
)

__all__ = ["CachedMultiVectorEncoder", "CachedSentenceTransformer", "CachedSparseEncoder"]
