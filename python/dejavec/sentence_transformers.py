"""``CachedSentenceTransformer``: a model of sentence-transformers with cached vectors."""

from dejavec.adapters.sentence_transformers import CachedSentenceTransformer

__all__ = ["CachedSentenceTransformer"]
