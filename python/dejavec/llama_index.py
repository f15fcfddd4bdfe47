"""Cached embedding models for LlamaIndex."""

from dejavec.adapters.llama_index import CachedEmbedding, CachedMultiModalEmbedding

__all__ = ["CachedEmbedding", "CachedMultiModalEmbedding"]
